/* SPDX-License-Identifier: MIT */
/*
 * Encrypting the writer's requests. One core encrypts hardly faster than a disk writes, and has other
 * work: so the writer queues the requests that it has filled, a few threads encrypt them, and it takes a
 * hand whenever it would have to wait. Requests leave in the order in which they came, so that a header
 * that comes after its payload finds all sums and tags in place.
 *
 * Parts begin and end with chunks, which have nonces of their own: nothing but the record's salt, which
 * is there before, is common to two of them.
 */
#include "base/fail.h"
#include "base/grow.h"
#include "segment/segment_internal.h"

#include <stdlib.h>
#include <unistd.h>

#define THREADS_MAX 3u /* with the writer as fast as any disk that one writer keeps busy */

typedef struct worker {
    csc_segment_crew *crew;
    csc_cipher *cipher;
    pthread_t thread;
} worker;

struct csc_segment_crew {
    const csc_keyring *keyring;
    csc_cipher *cipher; /* of whoever takes requests out */
    bool started;
    size_t thread_count;
    worker workers[THREADS_MAX];

    pthread_mutex_t lock;
    pthread_cond_t work, done;
    csc_segment_request *queue[CSC_SEGMENT_REQUESTS]; /* all that there are fit */
    size_t head, next, tail; /* counted on: the oldest, the oldest that nobody took, behind the newest */
    bool stopping;
};

int csc_segment_encrypt_begin(csc_segfmt_record *header)
{
    uint8_t *start = (uint8_t *)header;

    return csc_cipher_salt(start + (csc_segfmt_salt(header) - start));
}

static int encrypt_part(csc_cipher *cipher, const csc_segment_part *part)
{
    const csc_cipher_record record = csc_segment_cipher_record(part->header);
    uint8_t *start = (uint8_t *)part->header, *to = part->to, *data;
    uint8_t *tags = start + (csc_segfmt_tags(part->header) - start);
    uint64_t *sums = (void *)(start + ((const uint8_t *)csc_segfmt_sums(part->header) - start));
    csc_segment_cursor from = part->from;
    csc_segfmt_summer summer;
    size_t left = part->bytes;
    int rc =
        csc_cipher_begin_seal(cipher, &record, part->first, tags + part->first * CSC_SEGFMT_TAG_BYTES);

    csc_segfmt_summer_begin(&summer, part->header, part->first, sums + part->first, NULL);
    while (rc == 0 && left > 0) {
        /* Summed while it is in the cache. */
        size_t most = left < CSC_CIPHER_CHUNK_BYTES ? left : CSC_CIPHER_CHUNK_BYTES;
        size_t bytes = csc_segment_cursor_peek(&from, most, &data);

        rc = csc_cipher_feed(cipher, data, to, bytes);
        if (rc == 0)
            csc_segfmt_summer_feed(&summer, to, bytes);
        csc_segment_cursor_move(&from, bytes);
        to += bytes;
        left -= bytes;
    }
    if (rc == 0)
        rc = csc_cipher_end(cipher);
    csc_segfmt_summer_end(&summer);
    if (part->whole)
        csc_segfmt_record_seal(part->header);
    return rc;
}

/* Encrypts the oldest request that nobody took. Lock held, but not meanwhile. */
static void encrypt_next(csc_segment_crew *crew, csc_cipher *cipher)
{
    csc_segment_request *request = crew->queue[crew->next++ % CSC_SEGMENT_REQUESTS];

    pthread_mutex_unlock(&crew->lock);
    for (size_t i = 0; i < request->part_count && request->code == 0; i++)
        request->code = encrypt_part(cipher, &request->parts[i]);
    pthread_mutex_lock(&crew->lock);
    request->encrypted = true;
    pthread_cond_signal(&crew->done);
}

static void *worker_main(void *context)
{
    worker *self = context;
    csc_segment_crew *crew = self->crew;

    pthread_mutex_lock(&crew->lock);
    while (!crew->stopping)
        if (crew->next < crew->tail)
            encrypt_next(crew, self->cipher);
        else
            pthread_cond_wait(&crew->work, &crew->lock);
    pthread_mutex_unlock(&crew->lock);
    return NULL;
}

/* As many as there are processors beside the writer's. With fewer, for want of anything, it is slower.
 */
static void start(csc_segment_crew *crew)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);

    crew->started = true;
    while (crew->thread_count < THREADS_MAX && (long)crew->thread_count + 1 < processors) {
        worker *made = &crew->workers[crew->thread_count];

        made->crew = crew;
        if (csc_cipher_create(crew->keyring, &made->cipher))
            return;
        if (pthread_create(&made->thread, NULL, worker_main, made)) {
            csc_cipher_destroy(&made->cipher);
            return;
        }
        crew->thread_count++;
    }
}

int csc_segment_crew_make(const csc_keyring *ring, csc_segment_crew **crew)
{
    csc_segment_crew *made = calloc(1, sizeof *made);
    int rc;

    if (!made)
        return csc_fail(CASCADE_ENOMEM, "no memory to encrypt with");
    rc = csc_cipher_create(ring, &made->cipher);
    if (rc) {
        free(made);
        return rc;
    }
    made->keyring = ring;
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->work, NULL);
    pthread_cond_init(&made->done, NULL);
    *crew = made;
    return 0;
}

void csc_segment_crew_destroy(csc_segment_crew *crew, bool forked)
{
    if (!crew)
        return;
    if (!forked) {
        pthread_mutex_lock(&crew->lock);
        crew->stopping = true;
        pthread_cond_broadcast(&crew->work);
        pthread_mutex_unlock(&crew->lock);
        for (size_t i = 0; i < crew->thread_count; i++)
            pthread_join(crew->workers[i].thread, NULL);
        pthread_cond_destroy(&crew->work);
        pthread_cond_destroy(&crew->done);
        pthread_mutex_destroy(&crew->lock);
    }
    for (size_t i = 0; i < crew->thread_count; i++)
        csc_cipher_destroy(&crew->workers[i].cipher);
    csc_cipher_destroy(&crew->cipher);
    free(crew);
}

int csc_segment_request_encrypt(csc_segment_request *request, const csc_segment_part *part)
{
    if (!csc_grow(&request->parts, &request->part_room, request->part_count + 1, sizeof *part))
        return csc_fail(CASCADE_ENOMEM, "no memory to encrypt with");
    request->parts[request->part_count++] = *part;
    return 0;
}

void csc_segment_crew_push(csc_segment_crew *crew, csc_segment_request *request)
{
    if (!crew->started)
        start(crew);
    pthread_mutex_lock(&crew->lock);
    crew->queue[crew->tail++ % CSC_SEGMENT_REQUESTS] = request;
    pthread_cond_signal(&crew->work);
    pthread_mutex_unlock(&crew->lock);
}

csc_segment_request *csc_segment_crew_pop(csc_segment_crew *crew, bool wait)
{
    csc_segment_request *request = NULL;

    pthread_mutex_lock(&crew->lock);
    while (crew->head < crew->tail && !request) {
        request = crew->queue[crew->head % CSC_SEGMENT_REQUESTS];
        if (request->encrypted) {
            crew->head++;
            break;
        }
        request = NULL;
        if (!wait)
            break;
        if (crew->next < crew->tail)
            encrypt_next(crew, crew->cipher);
        else
            pthread_cond_wait(&crew->done, &crew->lock);
    }
    pthread_mutex_unlock(&crew->lock);
    return request;
}
