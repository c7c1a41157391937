// The one table of limits on what comes from outside. `pare doctor` prints it; messages name the limit they met.
// A value here bounds memory or work before any allocation is made from an untrusted size.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace pare {

inline constexpr int64_t kMaxTensorDims = 4;
inline constexpr int64_t kMaxTensors = 65'536;
inline constexpr int64_t kMaxMetadataKeys = 65'536;
inline constexpr int64_t kMaxMetadataDepth = 4;  // nested GGUF arrays
inline constexpr int64_t kMaxKeyBytes = 65'535;
inline constexpr int64_t kMaxMetadataStringBytes = 64 << 20;
inline constexpr int64_t kMaxMetadataArrayItems = 16 << 20;
inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100 << 20;
inline constexpr int64_t kMaxSafetensorsShards = 4'096;
inline constexpr int64_t kMaxJsonBytes = 256 << 20;
inline constexpr int64_t kMaxJsonDepth = 64;
inline constexpr int64_t kMaxVocab = 4 << 20;
inline constexpr int64_t kMaxTokenBytes = 4'096;
inline constexpr int64_t kMaxMerges = 8 << 20;
inline constexpr int64_t kMaxPromptBytes = 256 << 20;
inline constexpr int64_t kMaxTemplateBytes = 1 << 20;
inline constexpr int64_t kMaxTemplateDepth = 64;
inline constexpr int64_t kMaxTemplateSteps = 2'000'000;
inline constexpr int64_t kMaxTemplateOutputBytes = 64 << 20;
inline constexpr int64_t kMaxSpecBytes = 4'096;
inline constexpr int64_t kMaxSpecTerms = 16;
inline constexpr int64_t kMaxRankingFileBytes = 1 << 20;
inline constexpr int64_t kMaxDeviceClasses = 64;
inline constexpr int64_t kMaxDeviceClassBytes = 64;
inline constexpr int64_t kMaxMaskFileBytes = 32 << 20;
inline constexpr int64_t kMaxMaskChannels = 4 << 20;  // layers x KV heads x head dimension
inline constexpr int64_t kMaxMaskProvenanceBytes = 16 << 10;
inline constexpr int64_t kMaxTorchFileBytes = 128 << 20;
inline constexpr int64_t kMaxTorchEntries = 64;
inline constexpr int64_t kMaxTorchPickleBytes = 64 << 10;
inline constexpr int64_t kMaxTorchStorageBytes = 64 << 20;  // unpacked
inline constexpr int64_t kMaxTorchUnpackRatio = 16;         // unpacked bytes over stored ones; torch stores as it is
inline constexpr int64_t kMaxTorchItems = 16 << 20;         // strides of 0 make many out of few bytes
inline constexpr int64_t kMaxLayers = 1'024;
inline constexpr int64_t kMaxHeads = 1'024;
inline constexpr int64_t kMaxHeadDim = 1'024;
inline constexpr int64_t kMaxModelDim = 1 << 20;
inline constexpr int64_t kMaxContext = 1 << 24;
inline constexpr int64_t kMaxThreads = 1'024;
inline constexpr int64_t kMaxSequences = 4'096;
inline constexpr int64_t kMaxSamplesPerRequest = 256;
inline constexpr int64_t kMaxStopStrings = 64;
inline constexpr int64_t kMaxStopBytes = 4'096;
inline constexpr int64_t kMaxLogitBias = 4'096;
inline constexpr int64_t kMaxTopLogprobs = 100;

struct Limit {
  std::string_view name, unit;
  int64_t value;
};

// In the order above, for printing.
inline constexpr std::array kLimits = {
    Limit{"tensor dimensions", "", kMaxTensorDims},
    Limit{"tensors in a file", "", kMaxTensors},
    Limit{"metadata keys", "", kMaxMetadataKeys},
    Limit{"metadata nesting", "levels", kMaxMetadataDepth},
    Limit{"metadata key", "bytes", kMaxKeyBytes},
    Limit{"metadata string", "bytes", kMaxMetadataStringBytes},
    Limit{"metadata array", "items", kMaxMetadataArrayItems},
    Limit{"safetensors header", "bytes", kMaxSafetensorsHeaderBytes},
    Limit{"safetensors shards", "", kMaxSafetensorsShards},
    Limit{"JSON document", "bytes", kMaxJsonBytes},
    Limit{"JSON nesting", "levels", kMaxJsonDepth},
    Limit{"vocabulary", "tokens", kMaxVocab},
    Limit{"token", "bytes", kMaxTokenBytes},
    Limit{"merges", "", kMaxMerges},
    Limit{"prompt", "bytes", kMaxPromptBytes},
    Limit{"template", "bytes", kMaxTemplateBytes},
    Limit{"template nesting", "levels", kMaxTemplateDepth},
    Limit{"template steps", "", kMaxTemplateSteps},
    Limit{"template output", "bytes", kMaxTemplateOutputBytes},
    Limit{"policy spec", "bytes", kMaxSpecBytes},
    Limit{"policy spec terms", "", kMaxSpecTerms},
    Limit{"layer ranking file", "bytes", kMaxRankingFileBytes},
    Limit{"device classes in a file", "", kMaxDeviceClasses},
    Limit{"device class", "bytes", kMaxDeviceClassBytes},
    Limit{"channel mask file", "bytes", kMaxMaskFileBytes},
    Limit{"channels of a mask", "", kMaxMaskChannels},
    Limit{"channel mask provenance", "bytes", kMaxMaskProvenanceBytes},
    Limit{".pth file", "bytes", kMaxTorchFileBytes},
    Limit{".pth members", "", kMaxTorchEntries},
    Limit{".pth pickle", "bytes", kMaxTorchPickleBytes},
    Limit{".pth storage", "bytes", kMaxTorchStorageBytes},
    Limit{".pth unpacking", "times", kMaxTorchUnpackRatio},
    Limit{".pth tensor", "elements", kMaxTorchItems},
    Limit{"layers", "", kMaxLayers},
    Limit{"heads", "", kMaxHeads},
    Limit{"head dimension", "", kMaxHeadDim},
    Limit{"model dimension", "", kMaxModelDim},
    Limit{"context", "tokens", kMaxContext},
    Limit{"threads", "", kMaxThreads},
    Limit{"sequences", "", kMaxSequences},
    Limit{"samples per request", "", kMaxSamplesPerRequest},
    Limit{"stop strings", "", kMaxStopStrings},
    Limit{"stop string", "bytes", kMaxStopBytes},
    Limit{"logit biases", "", kMaxLogitBias},
    Limit{"top log-probabilities", "", kMaxTopLogprobs},
};

}  // namespace pare
