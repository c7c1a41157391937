// kv=streaming(sink, recent): once the prompt has been read, a sequence keeps its first `sink` rows and its
// last `recent` ones; pages wholly outside are given back. Source: StreamingLLM (arXiv 2309.17453) §3.2,
// except that positions stay absolute (no rotation to cache positions), so that a stored row never changes.
#pragma once

#include "kv/policy.h"

namespace pare {
KvPolicyEntry streaming_kv_entry();
}
