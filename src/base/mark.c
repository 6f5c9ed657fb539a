/* SPDX-License-Identifier: MIT */
#include "base/mark.h"

_Atomic(csc_mark_hook) csc_mark_hook_now;
