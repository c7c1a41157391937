// kv=dense: every row is kept and read.
#pragma once

#include "kv/policy.h"

namespace pare {
KvPolicyEntry dense_kv_entry();
}
