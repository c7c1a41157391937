// Qwen2 and 2.5 (biases on Q, K, V) and Qwen3 (RMS norm on each query and key head, no biases).
#include "model/architectures.h"
#include "model/hparams.h"

namespace pare {

Expected<ModelConfig> read_qwen2_config(const ModelFile& file) {
  const Hparams params(file, "qwen2");
  ModelConfig c;
  c.arch = "qwen2";
  PARE_RETURN_IF_ERROR(params.read_decoder(&c, 1'000'000.0));
  c.qkv_bias = true;
  PARE_RETURN_IF_ERROR(validate(c));
  return c;
}

Expected<ModelConfig> read_qwen3_config(const ModelFile& file) {
  const Hparams params(file, "qwen3");
  ModelConfig c;
  c.arch = "qwen3";
  PARE_RETURN_IF_ERROR(params.read_decoder(&c, 1'000'000.0));
  c.qk_norm = true;
  PARE_RETURN_IF_ERROR(validate(c));
  return c;
}

}  // namespace pare
