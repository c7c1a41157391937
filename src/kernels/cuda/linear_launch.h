// What small_linear.cc and batch_linear.cc do alike on the host: outputs are grouped by type, and a type names its
// kernels.
#pragma once

#include <fmt/format.h>

#include <span>

#include "base/check.h"
#include "kernels/cuda/linear_output.h"
#include "kernels/cuda/small_linear.h"

namespace pare::cuda {

// The outputs of one type: its `args` (outputs, n_outputs) filled, and the units of work that they are.
template <typename Args>
struct TypeGroup {
  DType dtype{};
  int64_t units = 0;
  Args args{};
};
template <typename Args>
struct TypeGroups {
  TypeGroup<Args> items[kMaxSmallOutputs];
  int count = 0;
  std::span<TypeGroup<Args>> all() { return std::span(items).first(static_cast<size_t>(count)); }
};

// Types and the outputs of a type in the order given; units_of(n) counts the units of work of n rows of weights.
template <typename Args, typename UnitsOf>
TypeGroups<Args> group_by_type(int64_t k, std::span<const SmallLinearOutput> outputs, UnitsOf&& units_of) {
  PARE_CHECK(outputs.size() <= kMaxSmallOutputs);
  TypeGroups<Args> groups;
  for (const SmallLinearOutput& out : outputs) {
    PARE_CHECK(out.weight.k == k && out.ld_y >= out.weight.n && !(out.bf16 && out.accumulate));
    int g = 0;
    while (g < groups.count && groups.items[g].dtype != out.weight.dtype) ++g;
    TypeGroup<Args>& group = groups.items[g];
    if (g == groups.count) {
      group.dtype = out.weight.dtype;
      ++groups.count;
    }
    group.args.outputs[group.args.n_outputs++] = {out.weight.data,
                                                  out.y,
                                                  out.bias,
                                                  out.ld_y,
                                                  static_cast<int32_t>(out.weight.n),
                                                  static_cast<int32_t>(group.units),
                                                  out.bf16,
                                                  out.accumulate};
    group.units += units_of(out.weight.n);
  }
  return groups;
}

// Makes `args` those of a gate and an up of one shape and type, which multiply a row of k columns into y.
template <typename Args>
Status set_glu(int64_t k, const DeviceWeight& gate, const DeviceWeight& up, Activation act, uint16_t* y, int64_t ld_y,
               Args* args) {
  PARE_CHECK(gate.n == up.n && gate.k == k && up.k == k && ld_y >= gate.n);
  if (gate.dtype != up.dtype) return unsupported("CUDA: gate and up of different types in one launch");
  args->glu = true;
  args->activation = act;
  args->n_outputs = 2;
  args->outputs[0] = {gate.data, y, nullptr, ld_y, static_cast<int32_t>(gate.n), 0, true, false};
  args->outputs[1] = {up.data, nullptr, nullptr, 0, static_cast<int32_t>(up.n), 0, true, false};
  return ok_status();
}

// body.operator()<dtype>(), for the types that are multiplied.
template <typename Body>
Status with_type(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::F32: return body.template operator()<DType::F32>();
    case DType::F16: return body.template operator()<DType::F16>();
    case DType::BF16: return body.template operator()<DType::BF16>();
    case DType::Q4_0: return body.template operator()<DType::Q4_0>();
    case DType::Q4_1: return body.template operator()<DType::Q4_1>();
    case DType::Q5_0: return body.template operator()<DType::Q5_0>();
    case DType::Q5_1: return body.template operator()<DType::Q5_1>();
    case DType::Q8_0: return body.template operator()<DType::Q8_0>();
    case DType::Q2_K: return body.template operator()<DType::Q2_K>();
    case DType::Q3_K: return body.template operator()<DType::Q3_K>();
    case DType::Q4_K: return body.template operator()<DType::Q4_K>();
    case DType::Q5_K: return body.template operator()<DType::Q5_K>();
    case DType::Q6_K: return body.template operator()<DType::Q6_K>();
    case DType::IQ4_NL: return body.template operator()<DType::IQ4_NL>();
    case DType::IQ4_XS: return body.template operator()<DType::IQ4_XS>();
    default: return unsupported(fmt::format("CUDA: no matrix product with {} weights", dtype_name(dtype)));
  }
}

}  // namespace pare::cuda
