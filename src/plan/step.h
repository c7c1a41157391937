// StepPlans: everything that the runtime hands to model forward about one step's rows and stored keys. All
// arrays live in the step arena or in the store and are valid until the step is committed. Indices only.
//
// Rows of a step are packed: sequence s owns rows [q_row, q_row + n_q). A sequence is either a prefill chunk
// (its rows are in tiles of every BlockPlan, n_folds = 0) or a decode (kSeqDecode; its rows are in runs of
// every SegmentPlan, n_folds > 0), never both; attention of a layer = its BlockPlan, then its class's
// SegmentPlan, on disjoint rows. Order within a layer: append all rows (dst), then attend. Copies run once,
// before the first layer.
#pragma once

#include <cstdint>
#include <span>

#include "plan/block_plan.h"
#include "plan/kv_layout.h"
#include "plan/segment_plan.h"

namespace pare {

// SeqStep::flags. kSeqDecode: rows go to the SegmentPlans. kSeqDense: the prompt is read densely by every selector that
// can (Caps::dense_prompts), because its log-probabilities are wanted.
enum : uint32_t { kSeqDecode = 1, kSeqDense = 2 };

// Copy-on-write of a shared, partly filled page: whole page, every layer and head of the class.
struct PageCopy {
  int32_t cls, src, dst;
};

// Rows that leave the full zone when a step is committed, after everything that reads it: every layer and head of the
// class. Row r of page `src` (full zone) becomes row r of page `dst` (zone mid), r in [row0, row0 + rows), in that
// zone's format. Heads that zone mid has no rows of, but zone sum has, leave estimated rows there: row r / kSumRows of
// the same page. They come in groups, to be run in order: pages of one may be those that an earlier one has read.
struct RowMove {
  int32_t cls, src, dst, row0, rows;
};

// What differs between layer classes.
struct ClassStep {
  const SeqStep* seqs = nullptr;  // [n_seqs]; page0, fold0, n_folds are this class's
  const int32_t* dst = nullptr;   // [T] page * kPageRows + row, where append stores each row
  SegmentPlan segment;
};

// Where a model layer finds its plans. Fixed at start.
struct LayerPlan {
  int16_t block = 0;      // into StepPlans::blocks
  int16_t cls = 0;        // into StepPlans::classes
  int32_t kv_layer = 0;   // into KvView formats
  bool writes_kv = true;  // false: reads the rows that another layer stored
};

struct StepPlans {
  int32_t n_seqs = 0, n_rows = 0;                     // T
  int32_t n_prefill_rows = 0, n_decode_rows = 0;      // decode rows come first
  int32_t n_logit_rows = 0, n_decode_logit_rows = 0;  // rows whose logits are wanted; those of decode rows first
  int32_t n_classes = 0, n_blocks = 0, n_layers = 0;
  ClassStep classes[kMaxClasses];
  const BlockPlan* blocks = nullptr;  // [n_blocks]; one per distinct (class, selector term)
  const LayerPlan* layers = nullptr;  // [n_layers]
  const PageCopy* copies = nullptr;
  int32_t n_copies = 0;
  KvView kv;
  std::byte* const* pools = nullptr;  // writable, for append

  const LayerPlan& layer(int l) const { return layers[l]; }
  const BlockPlan& block(int l) const { return blocks[layers[l].block]; }
  const ClassStep& cls(int l) const { return classes[layers[l].cls]; }
};

}  // namespace pare
