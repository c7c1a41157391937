// kv=quant(k, v, sink, recent, flush, min_tokens): once the prompt has been read, rows that are no longer recent are
// stored with 8, 4 or 2 bits: keys with a scale per channel and 32 rows, values with a scale per row and 32 channels.
// Source: KIVI (arXiv 2402.02750) §3, whose residual window is `recent` here.
#pragma once

#include "kv/policy.h"

namespace pare {
KvPolicyEntry quant_kv_entry();
}
