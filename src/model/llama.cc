// Llama and its relatives (SmolLM2, Llama 3.x): plain GQA decoder.
#include "model/architectures.h"
#include "model/hparams.h"

namespace pare {

Expected<ModelConfig> read_llama_config(const ModelFile& file) {
  const Hparams params(file, "llama");
  ModelConfig c;
  c.arch = "llama";
  PARE_RETURN_IF_ERROR(params.read_decoder(&c, 10'000.0));
  // llama.cpp's converter permutes Q and K so that rotated pairs lie side by side.
  c.rows_interleaved = params.gguf();
  PARE_RETURN_IF_ERROR(validate(c));
  return c;
}

}  // namespace pare
