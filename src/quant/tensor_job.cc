#include "quant/tensor_job.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "base/checked.h"
#include "io/quote_name.h"
#include "quant/blocks.h"

namespace pare {
namespace {

constexpr int64_t kBatchItems = 4 << 20;  // elements in memory at a time
constexpr int64_t kTaskItems = 64 << 10;
constexpr size_t kCopyBytes = 8 << 20;

int64_t source_row(const TensorJob& job, int64_t row) {
  if (job.move == RowMove::kNone) return row;
  const int64_t d = job.head_dim, half = d / 2, head = row / d, r = row % d;
  return head * d + (job.move == RowMove::kInterleave ? r % 2 * half + r / 2 : r % half * 2 + r / half);
}

class JobRunner {
 public:
  // A vector whose elements move is a matrix of one column.
  explicit JobRunner(const TensorJob& job)
      : job_(job), row_items_(job.move != RowMove::kNone && job.spec.shape.size() == 1 ? 1 : job.spec.shape.back()) {
    rows_ = 1;
    for (const int64_t dim : job.spec.shape) rows_ *= dim;
    rows_ = row_items_ == 0 ? 0 : rows_ / row_items_;
  }

  Status run(const TensorSink& sink, ThreadPool* pool) {
    if (rows_ == 0) return ok_status();
    const uint64_t out_row_bytes = *dtype_bytes(job_.spec.dtype, static_cast<uint64_t>(row_items_));
    const int64_t batch = std::max<int64_t>(1, kBatchItems / row_items_);
    std::vector<std::byte> out;
    for (int64_t begin = 0; begin < rows_; begin += batch) {
      const int64_t end = std::min(rows_, begin + batch);
      out.resize(static_cast<size_t>(end - begin) * out_row_bytes);
      const int64_t per_task = std::max<int64_t>(1, kTaskItems / row_items_);
      const auto task = [&](int64_t index, int) {
        const int64_t from = begin + index * per_task, to = std::min(end, from + per_task);
        std::vector<float> values(static_cast<size_t>(row_items_));
        for (int64_t row = from; row < to; ++row) {
          const auto at = std::span(out).subspan(static_cast<size_t>(row - begin) * out_row_bytes, out_row_bytes);
          if (Status status = convert_row(row, values, at); !status.ok()) return note(std::move(status));
        }
      };
      const int64_t tasks = ceil_div(end - begin, per_task);
      if (pool) {
        pool->run(tasks, task);
      } else {
        for (int64_t i = 0; i < tasks; ++i) task(i, 0);
      }
      PARE_RETURN_IF_ERROR(first_error_);
      PARE_RETURN_IF_ERROR(sink(out));
    }
    return ok_status();
  }

 private:
  Status convert_row(int64_t row, std::span<float> values, std::span<std::byte> out) const {
    const auto from = static_cast<size_t>(source_row(job_, row));
    if (job_.source) {
      const size_t bytes = job_.source->data.size() / static_cast<size_t>(rows_);
      PARE_RETURN_IF_ERROR(dequantize_row(job_.source->dtype, job_.source->data.subspan(from * bytes, bytes), values));
    } else {
      std::copy_n(job_.values.begin() + static_cast<std::ptrdiff_t>(from * values.size()), values.size(),
                  values.begin());
    }
    if (job_.add != 0.0f) {
      for (float& value : values) value += job_.add;
    }
    return quantize_row(job_.spec.dtype, values, out).with_context(fmt::format("row {}", row));
  }

  void note(Status status) {
    const std::lock_guard lock(mutex_);
    if (first_error_.ok()) first_error_ = std::move(status);
  }

  const TensorJob& job_;
  int64_t row_items_, rows_;
  std::mutex mutex_;
  Status first_error_;
};

Status copy_bytes(std::span<const std::byte> bytes, const TensorSink& sink) {
  while (!bytes.empty()) {
    const size_t n = std::min(bytes.size(), kCopyBytes);
    PARE_RETURN_IF_ERROR(sink(bytes.first(n)));
    bytes = bytes.subspan(n);
  }
  return ok_status();
}

Status run_job(const TensorJob& job, const TensorSink& sink, ThreadPool* pool) {
  const bool same = job.source && job.source->dtype == job.spec.dtype && job.add == 0.0f;
  if (same && job.move == RowMove::kNone) return copy_bytes(job.source->data, sink);
  if (job.source && !can_dequantize(job.source->dtype)) {
    return unsupported(fmt::format("{} cannot become {}", dtype_name(job.source->dtype), dtype_name(job.spec.dtype)));
  }
  return JobRunner(job).run(sink, pool);
}

}  // namespace

TensorProducer make_tensor_producer(std::span<const TensorJob> jobs, ThreadPool* pool) {
  return [jobs, pool](size_t index, const TensorSink& sink) {
    return run_job(jobs[index], sink, pool).with_context("tensor " + quote_name(jobs[index].spec.name));
  };
}

}  // namespace pare
