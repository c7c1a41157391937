// kv=leank(mask, sink, recent, flush, min_tokens, empty): once the prompt has been read, rows between the first `sink`
// and the most recent ones keep only the key channels that a mask names for their layer and KV head, with the mask's
// weights folded into the query; heads whose mask is empty keep no such row at all, or (empty=mean) the means of every
// kSumRows values, which equals logit 0 for each of their rows. Source: LeanK (arXiv 2508.02215) §3; the deployed cache
// of its release keeps 128 sinks, 768 recent rows and moves 128 at a time, which are the defaults here.
#pragma once

#include "kv/policy.h"

namespace pare {
KvPolicyEntry leank_kv_entry();
}
