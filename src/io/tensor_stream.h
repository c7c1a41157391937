// How writers of model files receive tensor data: pulled one tensor at a time, so that a model is never in
// memory as a whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "pare/status.h"

namespace pare {

// Takes the next bytes of the current tensor.
using TensorSink = std::function<Status(std::span<const std::byte>)>;

// Passes all bytes of tensor `index` to `sink`, in any number of pieces. An error stops the writer.
using TensorProducer = std::function<Status(size_t index, const TensorSink& sink)>;

// Told after each piece how many bytes of tensor data are written; returns false to stop (kCancelled). May be empty.
// Runs on the writing thread.
using WriteProgress = std::function<bool(uint64_t done, uint64_t total)>;

}  // namespace pare
