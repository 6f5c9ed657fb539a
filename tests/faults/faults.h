/* SPDX-License-Identifier: MIT */
/*
 * A table of file calls with one fault in it: one operation goes wrong in one way, at its n-th call or
 * from there on until it is healed. All other calls are the real ones.
 */
#ifndef CSC_FAULTS_FAULTS_H
#define CSC_FAULTS_FAULTS_H

#include "base/io.h"

typedef enum fault_operation {
    FAULT_OPEN,
    FAULT_CLOSE,
    FAULT_PREADV,
    FAULT_PWRITEV,
    FAULT_RING_READ, /* transfers of lanes by io_uring; by threads they are preadv and pwritev */
    FAULT_RING_WRITE,
    FAULT_FDATASYNC,
    FAULT_FSYNC,
    FAULT_FALLOCATE,
    FAULT_FTRUNCATE,
    FAULT_FSTAT,
    FAULT_LINK,
    FAULT_RENAME,
    FAULT_UNLINK,
    FAULT_MKDIR,
    FAULT_STATFS,
    FAULT_STAT,
    FAULT_OPENDIR,
    FAULT_READDIR,
    FAULT_OPERATIONS
} fault_operation;

typedef enum fault_kind {
    FAULT_EIO,
    FAULT_ENOSPC,
    FAULT_EDQUOT,
    FAULT_EINTR, /* three times in a row; lasting: every other call */
    FAULT_SHORT, /* moves half */
    FAULT_LATE,  /* takes three deadlines; lasting: three times */
    FAULT_WRONG, /* a read brings a wrong bit; a write of a block leaves other bytes of it in the file */
    FAULT_LIES,  /* is done, and says that it was not, as a call that a file server repeats */
    FAULT_KINDS
} fault_kind;

#define FAULT_DEADLINE_MS 20u

extern const char *const fault_operation_names[FAULT_OPERATIONS];
extern const char *const fault_kind_names[FAULT_KINDS];

bool fault_applies(fault_operation operation, fault_kind kind);

/** The table with io_uring underneath, or with threads; on a file system that has direct I/O, or not. */
const csc_io_calls *fault_table(bool ring, bool direct);
/** Puts the fault in; `first` counts from 1 and from here. */
void fault_arm(fault_operation operation, fault_kind kind, unsigned first, bool lasting);
void fault_heal(void);
/** How often the fault was met, and how many calls of an operation there were. */
unsigned fault_hits(void);
unsigned fault_count(fault_operation operation);

#endif
