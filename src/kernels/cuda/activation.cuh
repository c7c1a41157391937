// The activations of kernels/elementwise.h on the card. For *.cu files.
#pragma once

#include "kernels/elementwise.h"
#include "kernels/elementwise_constants.h"

namespace pare::cuda {

__device__ __forceinline__ float activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kSilu: return __fdividef(x, 1.0f + __expf(-x));
    case Activation::kGeluTanh: {
      const float inner = fmaf(elementwise::kGeluCubic * x * x, x, x);
      return __fdividef(x, 1.0f + __expf(-elementwise::kGelu2Sqrt2OverPi * inner));
    }
    case Activation::kGeluErf: return 0.5f * x * erfcf(-elementwise::kSqrtHalf * x);
  }
  return 0.0f;
}

}  // namespace pare::cuda
