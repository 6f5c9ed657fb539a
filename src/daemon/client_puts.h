/* SPDX-License-Identifier: MIT */
#ifndef CSC_DAEMON_CLIENT_PUTS_H
#define CSC_DAEMON_CLIENT_PUTS_H

#include <cascade/cascade.h>

/** cascade_block_put_many of a client: pages are reserved, filled here, committed, two round trips a
 * batch. A daemon that dies meanwhile has its successor asked from the start: a put that was done is
 * then one of a bound key. */
int csc_client_put_many(cascade_store *store, cascade_put *puts, size_t count, uint32_t flags);

#endif
