// What sees the queries and keys of a step: for calibration and inspection. The types of its arguments are in
// plan/step.h and tensor/tensor.h; a program that only runs models needs neither.
#pragma once

#include <cstdint>
#include <functional>

namespace pare {

struct Tensor;
struct StepPlans;

// Sees what a layer's attention is about to read: q [T, H, D] and k [T, K, D] of this step's rows, fp32, after norm and
// RoPE. On the CPU only. Called on the engine's thread; nothing of it may be kept.
using AttentionObserver = std::function<void(int32_t layer, const StepPlans& plans, const Tensor& q, const Tensor& k)>;

}  // namespace pare
