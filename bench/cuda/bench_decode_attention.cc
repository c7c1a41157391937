// Decode attention against the card's reading speed, measured here: GB/s of K and V, and the time of one layer. Layers
// are rotated, each with pages of its own, so that none is found in the cache.
//   bench_decode_attention [part of a case's name]
#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/card_rates.h"
#include "kernels/cuda/decode_attention.h"
#include "tensor/cuda/device_memory.h"
#include "timing.h"

namespace pare::cuda::bench {
namespace {

constexpr int kRepeats = 21;
constexpr size_t kCacheBytes = size_t{64} << 20;  // more than the L2 of the card

cudaStream_t stream;
double read_rate;

DeviceBuffer device_bytes(size_t bytes, int fill = 0) {
  auto buffer = DeviceBuffer::allocate(std::max<size_t>(bytes, 16));
  require(buffer.status());
  require(buffer->fill(static_cast<uint8_t>(fill)));
  return std::move(*buffer);
}
template <typename T>
DeviceBuffer uploaded(const std::vector<T>& host) {
  DeviceBuffer buffer = device_bytes(host.size() * sizeof(T));
  require(buffer.upload(host.data(), host.size() * sizeof(T)));
  return buffer;
}

struct Case {
  const char* name;
  int sequences, context, heads, kv_heads, d;
  int n_q = 1;
  int rows_a_pass = 0;  // 0: n_q
};

// A batch of sequences of one length over `layers` layers of pages.
class Batch {
 public:
  Batch(const Case& c, int item_spans) : c_(c) {
    const int pages = (c.context + kPageRows - 1) / kPageRows;
    const size_t plane = size_t{kPageRows} * c.d * 2, layer_bytes = 2 * plane * c.kv_heads * pages * c.sequences;
    layers_ = static_cast<int>(std::clamp<size_t>(kCacheBytes * 2 / layer_bytes, 1, 64));
    kv_bytes_ = 2.0 * c.d * 2 * c.kv_heads * c.context * c.sequences;
    pool_ = device_bytes(layer_bytes * layers_, 0x3c);  // every bf16 is 0.0115
    std::vector<RowFormat> formats;
    for (int layer = 0; layer < layers_; ++layer) {
      for (int g = 0; g < c.kv_heads; ++g) {
        RowFormat f;
        f.k = layer * layer_bytes + 2 * g * plane;
        f.v = f.k + plane;
        f.page_bytes = static_cast<uint32_t>(2 * plane * c.kv_heads);
        f.k_width = f.v_width = static_cast<uint16_t>(c.d);
        f.k_codec = f.v_codec = Codec::Bf16;
        f.order = Order::Rows;
        formats.push_back(f);
      }
    }
    std::vector<int32_t> ids(static_cast<size_t>(pages) * c.sequences);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(1));

    // Items as the planner cuts them, of the given size.
    std::vector<SeqStep> seqs;
    std::vector<Run> runs;
    std::vector<Member> members;
    std::vector<Fold> folds;
    std::vector<int32_t> prefix{0};
    int slots = 0;
    for (int s = 0; s < c.sequences; ++s) {
      SeqStep seq{.q_row = s * c.n_q, .n_q = c.n_q, .pos = c.context - c.n_q, .page0 = s * pages, .fold0 = s};
      seq.n_folds = 1;
      seqs.push_back(seq);
      Run run{.flags = static_cast<uint8_t>(c.n_q > 1 ? kRunCausal : 0),
              .page0 = static_cast<uint32_t>(s * pages),
              .rows = c.context,
              .member0 = s};
      run.item_spans = static_cast<uint16_t>(item_spans);
      runs.push_back(run);
      const int unit = spans_of_unit(item_spans), units = (c.context + unit * kSpanRows - 1) / (unit * kSpanRows);
      members.push_back({s, slots});
      Fold fold{.part0 = slots, .n_parts = units};
      fold.unit = static_cast<uint16_t>(unit);
      folds.push_back(fold);
      slots += units * c.n_q;
      prefix.push_back(prefix.back() + (units * unit + item_spans - 1) / item_spans);
    }
    items_ = prefix.back();
    formats_ = uploaded(formats);
    zones_ = uploaded(std::vector<Zone>{{.page_rows = kPageRows, .span = kSpanRows}});
    ids_ = uploaded(ids);
    seqs_ = uploaded(seqs);
    runs_ = uploaded(runs);
    members_ = uploaded(members);
    folds_ = uploaded(folds);
    prefix_ = uploaded(prefix);
    count_ = uploaded(std::vector<int32_t>{c.sequences});
    const size_t q_bytes = size_t{2} * c.sequences * c.n_q * c.heads * c.d;
    q_ = device_bytes(q_bytes, 0x3c);
    out_ = device_bytes(q_bytes);
    parts_ = device_bytes(size_t{4} * slots * c.heads * (c.d + 2));
    done_ = device_bytes(size_t{4} * c.sequences * c.kv_heads);
    octet_done_ = device_bytes(size_t{4} * (slots / kOctetSpans + 1) * c.kv_heads);
    layer_.kv.pools[0] = pool_.data();
    layer_.kv.formats = formats_.as<RowFormat>();
    layer_.kv.zones = zones_.as<Zone>();
    layer_.kv.page_ids = ids_.as<int32_t>();
    layer_.kv.n_kv_layers = layers_;
    layer_.kv.n_kv_heads = c.kv_heads;
    layer_.kv.head_dim = c.d;
    layer_.n_heads = c.heads;
    layer_.head_dim = c.d;
    layer_.qa = c.heads / c.kv_heads;
    layer_.scale = 0.1f;
    layer_.seqs = seqs_.as<SeqStep>();
    layer_.n_seqs = c.sequences;
    layer_.n_rows = c.sequences * c.n_q;
    layer_.q = q_.data();
    layer_.out = out_.data();
    plan_.runs = runs_.as<Run>();
    plan_.n_runs = count_.as<int32_t>();
    plan_.item_prefix = prefix_.as<int32_t>();
    plan_.members = members_.as<Member>();
    plan_.folds = folds_.as<Fold>();
    plan_.parts = parts_.as<float>();
    plan_.done = done_.as<uint32_t>();
    plan_.octet_done = octet_done_.as<uint32_t>();
    plan_.runs_cap = c.sequences;
    plan_.items_cap = items_;
    plan_.parts_cap = slots;
  }

  double kv_bytes() const { return kv_bytes_; }
  int items() const { return items_; }
  void attend(bool overlap) {
    layer_.kv_layer = (layer_.kv_layer + 1) % layers_;
    require(decode_attention(layer_, plan_,
                             {.query_rows = c_.rows_a_pass > 0 ? c_.rows_a_pass : c_.n_q, .overlap_launch = overlap},
                             stream));
  }
  int layers() const { return layers_; }

 private:
  Case c_;
  int layers_ = 1, items_ = 0;
  double kv_bytes_ = 0;
  DeviceBuffer pool_, formats_, zones_, ids_, seqs_, runs_, members_, folds_, prefix_, count_, q_, out_, parts_, done_,
      octet_done_;
  AttentionLayer layer_;
  SegmentPlan plan_;
};

void bench_read() {
  const auto rate = measure_read_rate();
  require(rate.status());
  read_rate = *rate;
  std::printf("reading %.0f GB/s\n", 1e-9 * read_rate);
}

void report(const Case& c) {
  for (const int item_spans : {1, 2, 4, 8, 16, 32, 64}) {
    if (item_spans > 1 && c.context < item_spans * kSpanRows) continue;
    Batch batch(c, item_spans);
    const double alone = median_seconds(stream, kRepeats, [&] { batch.attend(false); });
    const int calls = std::clamp(batch.layers(), 4, 32);
    const double graph = seconds_in_graph(stream, calls, 9, [&] { batch.attend(false); });
    const double overlap = seconds_in_graph(stream, calls, 9, [&] { batch.attend(true); });
    const double rate = batch.kv_bytes() / graph, best = batch.kv_bytes() / std::min({alone, graph, overlap});
    std::printf(
        "%-26s items %5d of %3d %9.1f us, in a graph %9.1f us, overlapped %9.1f us %6.0f GB/s %5.1f %% %5.1f %%\n",
        c.name, batch.items(), item_spans, 1e6 * alone, 1e6 * graph, 1e6 * overlap, 1e-9 * rate, 100 * rate / read_rate,
        100 * best / read_rate);
    std::fflush(stdout);
  }
}

int run(const char* filter) {
  require(cudaStreamCreate(&stream), "cudaStreamCreate");
  cudaDeviceProp properties;
  require(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  std::printf("%s, %d multiprocessors\n", properties.name, properties.multiProcessorCount);
  bench_read();
  constexpr Case kCases[] = {
      {"8 x 32K, 32/8 of 128", 8, 32768, 32, 8, 128},
      {"8 x 128K, 32/8 of 128", 8, 131072, 32, 8, 128},
      {"1 x 32K, 32/8 of 128", 1, 32768, 32, 8, 128},
      {"1 x 128K, 32/8 of 128", 1, 131072, 32, 8, 128},
      {"32 x 8K, 32/8 of 128", 32, 8192, 32, 8, 128},
      {"64 x 32K, 32/8 of 128", 64, 32768, 32, 8, 128},
      {"8 x 32K, 14/2 of 64", 8, 32768, 14, 2, 64},
      {"8 x 32K, 12/2 of 128", 8, 32768, 12, 2, 128},
      {"8 x 32K, 8/4 of 256", 8, 32768, 8, 4, 256},
      {"8 x 32K, 32/8 of 128, 4 rows", 8, 32768, 32, 8, 128, 4},
      {"8 x 32K, 32/8 of 128, 16 rows", 8, 32768, 32, 8, 128, 16},
      {"8 x 32K, 16 rows, 8 a pass", 8, 32768, 32, 8, 128, 16, 8},
      {"1 x 512, 32/8 of 128", 1, 512, 32, 8, 128},
      {"1 x 2K, 32/8 of 128", 1, 2048, 32, 8, 128},
      {"1 x 4K, 32/8 of 128", 1, 4096, 32, 8, 128},
      {"1 x 8K, 32/8 of 128", 1, 8192, 32, 8, 128},
      {"1 x 16K, 32/8 of 128", 1, 16384, 32, 8, 128},
      {"1 x 64K, 12/2 of 128", 1, 65536, 12, 2, 128},
      {"1 x 30K, 12/2 of 128", 1, 30000, 12, 2, 128},
      {"1 x 512, 14/2 of 64", 1, 512, 14, 2, 64},
      {"1 x 2K, 14/2 of 64", 1, 2048, 14, 2, 64},
  };
  for (const Case& c : kCases) {
    if (std::strstr(c.name, filter) != nullptr) report(c);
  }
  return 0;
}

}  // namespace
}  // namespace pare::cuda::bench

int main(int argc, char** argv) { return pare::cuda::bench::run(argc > 1 ? argv[1] : ""); }
