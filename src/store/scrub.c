/* SPDX-License-Identifier: MIT */
/*
 * The check of everything against its SHA-256: at full speed (verify), at a limited rate (scrub), or
 * from time to time in a thread of its own.
 *
 * A content is held busy while it is read, so its copy in dram stays; its file copy may move or go
 * meanwhile, and then a failed read says nothing about it. A damaged copy leaves use at once. A copy in
 * dram that a reader has pinned cannot: then the keys move to a new entry for the file copy, and the
 * damaged one is freed with the last pin.
 */
#include "base/clock.h"
#include "base/fail.h"
#include "base/log.h"
#include "store/client.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEP_BYTES_MAX (UINT64_C(4) << 20)
#define STEP_BYTES_MIN (UINT64_C(256) << 10) /* a checksum chunk */
#define STEPS_A_SECOND 8u
#define SECOND_NS      UINT64_C(1000000000)
#define PAUSE_NS       UINT64_C(100000000) /* between two looks at who wants an end */
#define MOVED_TRIES    4

typedef struct scrub {
    cascade_store *store;
    uint64_t rate_bytes; /* a second; 0: no limit */
    uint64_t step_bytes;
    uint64_t next_ns; /* when the bytes read so far are paid for */
    cascade_progress progress;
    void *progress_context;
    uint64_t total_bytes;
    cascade_verify_report report;
    uint64_t unreadable; /* blocks */
    int unreadable_code;
    char unreadable_text[256];
    uint8_t *buffer;
    EVP_MD_CTX *digest;
} scrub;

typedef struct scrub_target {
    uint32_t number;
    uint64_t state;
    csc_content content;
    csc_place file;
    bool in_dram, in_file;
} scrub_target;

/* ---- pace ------------------------------------------------------------------------------------ */

/* Lock held. */
static bool is_ending(const scrub *s)
{
    return s->store->stopping || s->store->closing;
}

static void wait_until(scrub *s, uint64_t deadline_ns)
{
    struct timespec deadline = {.tv_sec = (time_t)(deadline_ns / SECOND_NS),
                                .tv_nsec = (long)(deadline_ns % SECOND_NS)};

    pthread_cond_timedwait(&s->store->scrub_work, &s->store->lock, &deadline);
}

static int look_up_from_work(scrub *s)
{
    if (s->progress && s->progress(s->progress_context, s->report.bytes, s->total_bytes))
        return csc_fail(CASCADE_EAGAIN, "stopped before the end");
    return 0;
}

/* After `bytes` were read: waits until they are paid for. Time that was not used is not saved up. */
static int pace(scrub *s, uint64_t bytes)
{
    uint64_t now_ns = csc_clock_ns();
    bool ending = false;
    int code;

    s->report.bytes += bytes;
    code = look_up_from_work(s);
    if (s->next_ns < now_ns)
        s->next_ns = now_ns;
    if (s->rate_bytes)
        s->next_ns += (uint64_t)((double)bytes / (double)s->rate_bytes * (double)SECOND_NS);
    while (code == 0 && !ending && s->rate_bytes && (now_ns = csc_clock_ns()) < s->next_ns) {
        pthread_mutex_lock(&s->store->lock);
        ending = is_ending(s);
        if (!ending)
            wait_until(s, s->next_ns - now_ns < PAUSE_NS ? s->next_ns : now_ns + PAUSE_NS);
        pthread_mutex_unlock(&s->store->lock);
        code = look_up_from_work(s);
    }
    return ending ? csc_fail(CASCADE_EAGAIN, "the store closes") : code;
}

/* ---- one content ----------------------------------------------------------------------------- */

static bool is_same(const csc_content_entry *entry, const scrub_target *target)
{
    return csc_content_has(entry, CSC_CONTENT_LIVE) &&
           csc_content_generation(entry) == (uint32_t)(target->state >> CSC_CONTENT_GENERATION_SHIFT);
}

/* Holds content `number` busy, if it is a block whose digest is known. Lock held. */
static bool begin(cascade_store *store, uint32_t number, scrub_target *target)
{
    csc_content_entry *entry = csc_content_at(store, number);
    bool yes = csc_content_has(entry, CSC_CONTENT_LIVE | CSC_CONTENT_DIGEST);

    if (yes) {
        target->number = number;
        target->state = atomic_load(&entry->state);
        target->content = entry->content;
        target->file = entry->file;
        target->in_dram = target->state & CSC_CONTENT_RESIDENT;
        target->in_file = csc_place_is_set(&entry->file);
        store->content_states[number].busy++;
    }
    return yes;
}

/* Digests the content as a tier gives it: `*verdict` is 0, CASCADE_ECORRUPT or what reading says.
 * Returns 0, or CASCADE_EAGAIN when the whole is to end. */
static int check(scrub *s, const scrub_target *target, bool in_file, int *verdict)
{
    cascade_store *store = s->store;
    uint64_t bytes = target->content.k_bytes + target->content.v_bytes;
    uint8_t digest[EVP_MAX_MD_SIZE];
    int code = 0;

    *verdict = 0;
    EVP_DigestInit_ex(s->digest, EVP_sha256(), NULL);
    for (uint64_t at = 0; at < bytes && code == 0 && *verdict == 0; at += s->step_bytes) {
        cascade_piece piece = {s->buffer, bytes - at < s->step_bytes ? bytes - at : s->step_bytes};

        if (in_file)
            *verdict = csc_tier_read_one(store->file, &target->file, &target->content, at, &piece, 1);
        else
            csc_arena_copy_out(store->arena, &csc_content_at(store, target->number)->dram, at, &piece,
                               1);
        EVP_DigestUpdate(s->digest, piece.data, piece.bytes);
        if (*verdict)
            snprintf(s->unreadable_text, sizeof s->unreadable_text, "%s", csc_fail_text());
        code = pace(s, piece.bytes);
    }
    EVP_DigestFinal_ex(s->digest, digest, NULL);
    if (code == 0 && *verdict == 0 &&
        memcmp(digest, target->content.digest, sizeof target->content.digest) != 0)
        *verdict = CASCADE_ECORRUPT;
    return code;
}

/* The damaged copy in dram is in use, the one in files is right: that one gets an entry of its own and
 * the keys. False for lack of memory. Lock held. */
static bool leave_to_readers(cascade_store *store, uint32_t number)
{
    csc_content content = csc_content_at(store, number)->content;
    uint32_t made;

    if (csc_content_make(store, &content, &made) != 0)
        return false;
    csc_content_take_file(store, number, made); /* so that the drop leaves the place alone */
    store->content_count++;
    store->content_bytes += content.k_bytes + content.v_bytes;
    atomic_fetch_or(&csc_content_at(store, made)->state, CSC_CONTENT_LIVE);
    atomic_fetch_and(&csc_content_at(store, made)->state, ~(uint64_t)CSC_CONTENT_FILLING);
    csc_content_set_digest(store, made, content.digest);
    csc_content_merge(store, number, made);
    atomic_fetch_sub(&store->counters.dedup_blocks, 1); /* nothing was saved by it */
    return true;
}

/* Takes damaged copies out of use; the block is gone if none is left. `file`: 0, or why that copy cannot
 * be used. Lock held. */
static void quarantine(scrub *s, const scrub_target *target, bool dram_bad, int file)
{
    cascade_store *store = s->store;
    const csc_content_entry *entry = csc_content_at(store, target->number);

    if (dram_bad && (store->content_states[target->number].flags & CSC_CS_DAMAGED))
        s->report.damaged[CASCADE_TIER_DRAM]++;
    else if (dram_bad)
        csc_count(&store->counters.quarantined[CASCADE_TIER_DRAM], 1);
    if (file && !csc_copies_quarantine(store, target->number, file, !dram_bad))
        return;
    if (!dram_bad)
        return;
    if (!csc_place_is_set(&entry->file))
        csc_content_lose(store, target->number, true);
    else if ((store->content_states[target->number].busy || !csc_content_evict(store, target->number)) &&
             !leave_to_readers(store, target->number)) {
        store->content_states[target->number].flags |= CSC_CS_DAMAGED;
        csc_log(CSC_LOG_WARNING, "a damaged block in dram stays in use: %s", csc_fail_text());
    }
}

/* Lets go, acts on what was found and counts it. False: its file copy moved meanwhile, look again. Lock
 * held. */
static bool settle(scrub *s, const scrub_target *target, int dram, int file)
{
    cascade_store *store = s->store;
    csc_content_entry *entry = csc_content_at(store, target->number);
    bool same = is_same(entry, target);
    bool dram_bad = dram == CASCADE_ECORRUPT;
    bool file_bad = file == CASCADE_ECORRUPT || file == CASCADE_MISS;
    bool moved = memcmp(&entry->file, &target->file, sizeof entry->file) != 0;

    store->content_states[target->number].busy--;
    pthread_cond_broadcast(&store->progress);
    if (!same)
        return true; /* deleted: nobody asks for its bytes */
    if (file && moved)
        return false;
    if (dram_bad || file_bad) {
        quarantine(s, target, dram_bad, file_bad ? file : 0);
        csc_log(CSC_LOG_WARNING, "a damaged block was found in %s%s%s: %s", dram_bad ? "dram" : "",
                dram_bad && file_bad ? " and " : "", file_bad ? "files" : "",
                (target->in_dram && !dram_bad) || (target->in_file && !file_bad) ||
                        is_same(entry, target)
                    ? "another copy is read"
                    : "there is no other copy, it is a miss now");
    }
    s->report.blocks[CASCADE_TIER_DRAM] += target->in_dram && dram == 0;
    s->report.blocks[CASCADE_TIER_FILE] += target->in_file && file == 0;
    s->report.damaged[CASCADE_TIER_FILE] += file == CASCADE_MISS; /* damage is counted at the end */
    if (file && !file_bad) {
        s->unreadable++;
        s->unreadable_code = s->unreadable_code ? s->unreadable_code : file;
    }
    return true;
}

static int scrub_one(scrub *s, uint32_t number)
{
    cascade_store *store = s->store;
    bool done = false;
    int code = 0;

    for (int tries = 0; tries < MOVED_TRIES && !done && code == 0; tries++) {
        scrub_target target;
        int dram = 0, file = 0;
        bool is_block;

        pthread_mutex_lock(&store->lock);
        is_block = begin(store, number, &target);
        pthread_mutex_unlock(&store->lock);
        if (!is_block)
            break;
        if (target.in_dram)
            code = check(s, &target, false, &dram);
        if (target.in_file && code == 0)
            code = check(s, &target, true, &file);
        if (file == CASCADE_MISS || file == CASCADE_ECORRUPT)
            (void)csc_discover_now(store); /* another node may have moved it, or have it too */
        pthread_mutex_lock(&store->lock);
        if (code == 0)
            done = settle(s, &target, dram, file);
        else
            store->content_states[number].busy--;
        pthread_mutex_unlock(&store->lock);
        if (file == CASCADE_ETIMEDOUT)
            code = file; /* a tier in trouble needs no more load */
    }
    return code;
}

/* ---- segments without an index --------------------------------------------------------------- */

/* The first segment of an earlier run of this rank that has no good index. CASCADE_MISS: none. */
static int find_without_index(cascade_store *store, csc_segment_info *found)
{
    size_t count;
    csc_segment_info *infos = csc_segments(store, &count);
    int code = infos ? CASCADE_MISS : CASCADE_ENOMEM;

    for (size_t i = 0; i < count && code == CASCADE_MISS; i++) {
        if (infos[i].ours && !infos[i].sealed && infos[i].segment < store->segments_found)
            code = 0;
        *found = infos[i];
    }
    free(infos);
    return code;
}

typedef struct emptying {
    csc_errand errand; /* the first member */
    uint32_t segment;
} emptying;

static int empty_part(cascade_store *store, csc_errand *errand, bool *done)
{
    uint32_t segment = ((const emptying *)errand)->segment;
    int code = csc_compact_part(store, segment, done);

    /* Kept until a block of it is written anew, which the round after this part does. */
    if (code == 0 && *done && !(csc_segment_standing(store->file, segment) & CSC_SEGMENT_IS_GONE)) {
        pthread_mutex_lock(&store->lock);
        if (store->file_error)
            code = csc_fail(store->file_error, "a record that may be torn cannot be written anew: %s",
                            store->file_error_text);
        pthread_mutex_unlock(&store->lock);
        *done = code != 0;
    }
    if (code == 0 && *done)
        code = store->file->ops->sync(store->file); /* so that it stays away */
    return code;
}

/* An open has to scan such segments, and no compaction takes them. */
static int empty_without_index(scrub *s)
{
    csc_segment_info found;
    unsigned count = 0;
    int code;

    while ((code = find_without_index(s->store, &found)) == 0) {
        emptying e = {.errand.part = empty_part, .segment = found.segment};

        code = csc_errand_run(s->store, &e.errand);
        if (code == 0)
            code = pace(s, found.live_bytes);
        if (code)
            break;
        count++;
    }
    if (code == CASCADE_MISS)
        code = 0;
    if (code == 0 && count)
        csc_log(CSC_LOG_INFO, "emptied and removed %u segments without an index", count);
    return code;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static int scrub_init(scrub *s)
{
    uint64_t step = s->rate_bytes ? s->rate_bytes / STEPS_A_SECOND : STEP_BYTES_MAX;

    s->step_bytes = step < STEP_BYTES_MAX ? step / STEP_BYTES_MIN * STEP_BYTES_MIN : STEP_BYTES_MAX;
    if (s->step_bytes == 0)
        s->step_bytes = STEP_BYTES_MIN;
    s->digest = EVP_MD_CTX_new();
    s->buffer = aligned_alloc(4096, s->step_bytes);
    return s->digest && s->buffer ? 0 : csc_fail(CASCADE_ENOMEM, "no memory to scrub with");
}

static void scrub_destroy(scrub *s)
{
    EVP_MD_CTX_free(s->digest);
    free(s->buffer);
}

static int outcome(scrub *s, int code)
{
    const cascade_verify_report *report = &s->report;

    if (code)
        return code;
    if (report->damaged[CASCADE_TIER_DRAM] || report->damaged[CASCADE_TIER_FILE])
        return csc_fail(CASCADE_ECORRUPT,
                        "%llu damaged blocks in dram, %llu damaged blocks or files on disk; quarantined",
                        (unsigned long long)report->damaged[CASCADE_TIER_DRAM],
                        (unsigned long long)report->damaged[CASCADE_TIER_FILE]);
    if (s->unreadable)
        return csc_fail(s->unreadable_code, "%llu blocks could not be read: %s",
                        (unsigned long long)s->unreadable, s->unreadable_text);
    return 0;
}

/* What was quarantined since `before`, also by a read or a compaction that came first. */
static void report_damage(scrub *s, const uint64_t before[CASCADE_TIER_COUNT])
{
    for (unsigned tier = 0; tier < CASCADE_TIER_COUNT; tier++)
        s->report.damaged[tier] += atomic_load(&s->store->counters.quarantined[tier]) - before[tier];
    s->report.damaged[CASCADE_TIER_FILE] += s->store->files_skipped;
}

static int run(scrub *s, bool fix)
{
    cascade_store *store = s->store;
    uint64_t digested, before[CASCADE_TIER_COUNT];
    int code = scrub_init(s);

    if (code)
        goto out;
    pthread_mutex_lock(&store->lock);
    /* What has no digest yet cannot be checked; the queue is served in order. */
    digested = store->hash_taken + store->hash_queue.count + store->hashing;
    while (store->hash_taken < digested && store->hash_queue.count + store->hashing && !is_ending(s))
        csc_store_wait(store, csc_clock_ns() + SECOND_NS);
    s->total_bytes = store->resident_bytes + store->file_bytes;
    for (unsigned tier = 0; tier < CASCADE_TIER_COUNT; tier++)
        before[tier] = atomic_load(&store->counters.quarantined[tier]);
    pthread_mutex_unlock(&store->lock);
    for (uint32_t number = 0; code == 0; number++) {
        bool more;

        pthread_mutex_lock(&store->lock);
        more = number < store->contents_made;
        if (more && is_ending(s))
            code = csc_fail(CASCADE_EAGAIN, "the store closes");
        pthread_mutex_unlock(&store->lock);
        if (!more)
            break;
        if (code == 0)
            code = scrub_one(s, number);
    }
    report_damage(s, before);
    if (code == 0 && fix)
        code = empty_without_index(s);
    code = outcome(s, code);
out:
    scrub_destroy(s);
    return code;
}

int cascade_store_verify(cascade_store *store, cascade_verify_report *report, cascade_progress progress,
                         void *context)
{
    const cascade_scrub_options options = {.struct_bytes = sizeof options};

    CSC_ENTER(store);
    if (report && store->daemon)
        return store->daemon->ops->scrub(store, NULL, report, progress, context);
    return cascade_store_scrub(store, &options, report, progress, context);
}

int cascade_store_scrub(cascade_store *store, const cascade_scrub_options *given,
                        cascade_verify_report *report, cascade_progress progress, void *context)
{
    cascade_scrub_options options = {0};
    scrub s = {.store = store, .progress = progress, .progress_context = context};
    int code;

    CSC_ENTER(store);
    if (!report)
        return csc_fail(CASCADE_EINVAL, "no place for the report");
    if (!given || given->struct_bytes < sizeof(size_t) || given->struct_bytes > 65536)
        return csc_fail(CASCADE_EINVAL, "no options, or struct_bytes is not set");
    memcpy(&options, given, given->struct_bytes < sizeof options ? given->struct_bytes : sizeof options);
    if (store->daemon)
        return store->daemon->ops->scrub(store, &options, report, progress, context);
    s.rate_bytes = options.rate_bytes;
    code = csc_long_call_begin(store);
    if (code)
        return code;
    code = run(&s, options.fix);
    csc_long_call_end(store);
    *report = s.report;
    return code;
}

/* ---- from time to time ----------------------------------------------------------------------- */

static void run_in_background(cascade_store *store)
{
    scrub s = {.store = store, .rate_bytes = store->config.background_rate_bytes};
    int code = run(&s, false);

    if (code == 0)
        csc_log(CSC_LOG_INFO, "scrubbed %llu bytes: all right", (unsigned long long)s.report.bytes);
    else if (code != CASCADE_EAGAIN)
        csc_log(CSC_LOG_WARNING, "scrubbed %llu bytes: %s", (unsigned long long)s.report.bytes,
                csc_fail_text());
}

void *csc_scrub_main(void *context)
{
    cascade_store *store = context;
    scrub s = {.store = store};
    uint64_t interval_s = store->config.scrub_interval_s, next_ns;

    if (interval_s > UINT32_MAX)
        interval_s = UINT32_MAX; /* over a hundred years; the sum below must not pass its end */
    next_ns = csc_clock_ns() + interval_s * SECOND_NS;
    pthread_mutex_lock(&store->lock);
    while (!is_ending(&s)) {
        if (csc_clock_ns() < next_ns) {
            wait_until(&s, next_ns);
            continue;
        }
        next_ns += interval_s * SECOND_NS;
        pthread_mutex_unlock(&store->lock);
        run_in_background(store);
        pthread_mutex_lock(&store->lock);
        if (next_ns < csc_clock_ns()) /* it took longer than that */
            next_ns = csc_clock_ns();
    }
    pthread_mutex_unlock(&store->lock);
    return NULL;
}
