/* SPDX-License-Identifier: MIT */
/*
 * Data layout. Observations are counts by class and age bucket: `hit` (used again at that age) and
 * `lost` (watched up to that age, then no longer). Blocks still watched are censored observations as
 * well; they are counted by class and epoch of last use in a ring, so that a touch moves one count and
 * no pass over the blocks is ever needed. What falls off the ring's old end is added up in `ancient`.
 */
#include "policy/hazard.h"

#include <stdlib.h>
#include <string.h>

enum {
    REUSE_GROUPS = 6, /* 0, 1, 2, 3-4, 5-8, 9 and more */
    REUSE_MAX = 9,    /* counted no further */
    PACES = 3,        /* faster than the mean gap, near it, slower */
    PACE_NEAR = 4,    /* buckets either side of the mean: an octave */
    CLASSES = REUSE_GROUPS * PACES * 2,
    BUCKETS = 96,           /* of age, four an octave */
    EPOCH_TICKS = 16,       /* resolution of the living */
    EPOCHS = 1024,          /* how far back the ring reaches */
    REBUILD_TICKS = 64,     /* values are computed this often */
    HALVING_TICKS = 50000,  /* old observations fade */
    PRIOR_WEIGHT = 100,     /* blocks' worth of prior */
    FIRST_REUSE_FACTOR = 4, /* prior of a block used twice, over one used once */
};

static const double hazard_max = 0.999; /* keeps survival above 0 */

struct csc_hazard {
    uint64_t clock;
    bool learned;
    double gap_sum; /* of the age buckets of all hits */
    double gap_count;
    float hit[CLASSES][BUCKETS];
    float lost[CLASSES][BUCKETS];
    float value[CLASSES][BUCKETS];
    uint32_t living[EPOCHS][CLASSES];
    uint32_t ancient[CLASSES];
    double risk[CLASSES][BUCKETS]; /* while computing; too large for a host's stack */
    double rate[CLASSES][BUCKETS];
};

static unsigned bucket_of(uint64_t age)
{
    if (age < 2)
        return 0;
    unsigned octave = 63u - (unsigned)__builtin_clzll(age);
    unsigned quarter = (unsigned)(octave >= 2 ? age >> (octave - 2) : age << (2 - octave)) & 3u;
    unsigned bucket = 4 * octave + quarter;

    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

/* Ages are whole ticks, so the first two octaves have buckets that hold none. */
static double bucket_width(unsigned bucket)
{
    unsigned octave = bucket / 4;

    if (octave >= 2)
        return (double)(UINT64_C(1) << (octave - 2));
    return bucket % 4 % (4u >> octave) == 0 ? 1.0 : 0.0;
}

static unsigned reuse_group(unsigned reuse)
{
    return reuse <= 2 ? reuse : reuse <= 4 ? 3 : reuse <= 8 ? 4 : 5;
}

static unsigned class_of(unsigned group, unsigned pace, bool tail)
{
    return (group * PACES + pace) * 2 + tail;
}

/* The class of a block never used again: it has no pace, and counts as near the mean. */
static unsigned class_of_new(bool tail)
{
    return class_of(0, 1, tail);
}

csc_hazard *csc_hazard_create(void)
{
    return calloc(1, sizeof(csc_hazard));
}

void csc_hazard_destroy(csc_hazard *hazard)
{
    free(hazard);
}

bool csc_hazard_learned(const csc_hazard *hazard)
{
    return hazard->learned;
}

/* The counter under which a block is among the living. */
static uint32_t *living_of(csc_hazard *hazard, const csc_hazard_mark *mark)
{
    uint64_t epoch = mark->last / EPOCH_TICKS;

    if (hazard->clock / EPOCH_TICKS - epoch >= EPOCHS)
        return &hazard->ancient[mark->class];
    return &hazard->living[epoch % EPOCHS][mark->class];
}

/* ---- computing the values ---- */

static double least(double a, double b)
{
    return a < b ? a : b;
}

/* Writes the living by age to `risk`. */
static void count_living(csc_hazard *hazard)
{
    uint64_t now = hazard->clock / EPOCH_TICKS;

    memset(hazard->risk, 0, sizeof hazard->risk);
    for (uint64_t back = 0; back < EPOCHS && back <= now; back++) {
        uint64_t middle = (now - back) * EPOCH_TICKS + EPOCH_TICKS / 2;
        unsigned bucket = bucket_of(middle < hazard->clock ? hazard->clock - middle : 1);
        const uint32_t *counts = hazard->living[(now - back) % EPOCHS];

        for (unsigned class = 0; class < CLASSES; class ++)
            hazard->risk[class][bucket] += counts[class];
    }
    for (unsigned class = 0; class < CLASSES; class ++)
        hazard->risk[class][bucket_of(EPOCHS * EPOCH_TICKS)] += hazard->ancient[class];
}

/* Turns the living in `risk` into the blocks at risk of a hit at each age: all that were seen at that
 * age or older, less half of those lost from sight within the bucket. */
static void count_risk(csc_hazard *hazard)
{
    for (unsigned class = 0; class < CLASSES; class ++) {
        double seen = 0;

        for (unsigned a = BUCKETS; a-- > 0;) {
            double censored = hazard->lost[class][a] + hazard->risk[class][a];

            seen += hazard->hit[class][a] + censored;
            hazard->risk[class][a] = seen - censored / 2;
        }
    }
}

/* The share of all blocks at risk that are hit at each age, whatever their class. */
static void pool_classes(const csc_hazard *hazard, double *pooled)
{
    for (unsigned a = 0; a < BUCKETS; a++) {
        double hit = 0, risk = 0;

        for (unsigned class = 0; class < CLASSES; class ++) {
            hit += hazard->hit[class][a];
            risk += hazard->risk[class][a];
        }
        pooled[a] = risk > 0 ? hit / risk : 0;
    }
}

/* The hazard of each class, drawn towards a prior: that of the class of the next lower reuse. */
static void fill_rates(csc_hazard *hazard)
{
    double pooled[BUCKETS];

    pool_classes(hazard, pooled);
    for (unsigned class = 0; class < CLASSES; class ++) {
        unsigned group = class / (PACES * 2), pace = class / 2 % PACES;
        bool tail = class % 2;
        const double *prior = pooled;

        if (group == 1)
            prior = hazard->rate[class_of_new(tail)];
        else if (group > 1)
            prior = hazard->rate[class_of(group - 1, pace, tail)];
        for (unsigned a = 0; a < BUCKETS; a++) {
            double p = least(prior[a] * (group == 1 ? FIRST_REUSE_FACTOR : 1), hazard_max);
            double rate =
                (hazard->hit[class][a] + PRIOR_WEIGHT * p) / (hazard->risk[class][a] + PRIOR_WEIGHT);

            hazard->rate[class][a] = least(rate, hazard_max);
        }
    }
}

typedef struct wait_curve {
    double survival[BUCKETS + 1]; /* to the start of the bucket */
    double held[BUCKETS + 1];     /* mean ticks a slot is held from there on */
} wait_curve;

/* Hits per tick of a slot held from bucket `from` to the start of bucket `to`. */
static double slope(const wait_curve *curve, unsigned from, unsigned to)
{
    return (curve->survival[from] - curve->survival[to]) / (curve->held[from] - curve->held[to]);
}

/*
 * The value at an age: hits per tick of a slot, over the best of all times to give the block up. Hits
 * and ticks are differences along one curve, so that is the steepest slope from the age's point to a
 * later one: an edge of the hull of the points from there on, kept on a stack while walking down from
 * the old end. Linear where trying every time would be quadratic.
 */
static void fill_values(const double *rate, float *value)
{
    unsigned hull[BUCKETS + 1], depth = 0;
    wait_curve curve;

    curve.survival[0] = 1;
    for (unsigned a = 0; a < BUCKETS; a++)
        curve.survival[a + 1] = curve.survival[a] * (1 - rate[a]);
    curve.held[BUCKETS] = 0;
    hull[depth++] = BUCKETS;
    for (unsigned a = BUCKETS; a-- > 0;) {
        double width = bucket_width(a);

        curve.held[a] = curve.held[a + 1] + width * (curve.survival[a] + curve.survival[a + 1]) / 2;
        if (width == 0)
            continue; /* holds no age */
        while (depth > 1 && slope(&curve, a, hull[depth - 2]) >= slope(&curve, a, hull[depth - 1]))
            depth--;
        value[a] = (float)slope(&curve, a, hull[depth - 1]);
        hull[depth++] = a;
    }
}

static void rebuild(csc_hazard *hazard)
{
    count_living(hazard);
    count_risk(hazard);
    fill_rates(hazard);
    for (unsigned class = 0; class < CLASSES; class ++)
        fill_values(hazard->rate[class], hazard->value[class]);
    hazard->learned = true;
}

static void fade(csc_hazard *hazard)
{
    for (unsigned class = 0; class < CLASSES; class ++)
        for (unsigned a = 0; a < BUCKETS; a++) {
            hazard->hit[class][a] /= 2;
            hazard->lost[class][a] /= 2;
        }
    hazard->gap_sum /= 2;
    hazard->gap_count /= 2;
}

void csc_hazard_tick(csc_hazard *hazard)
{
    hazard->clock++;
    if (hazard->clock % EPOCH_TICKS == 0) {
        uint32_t *slot = hazard->living[hazard->clock / EPOCH_TICKS % EPOCHS];

        for (unsigned class = 0; class < CLASSES; class ++) {
            hazard->ancient[class] += slot[class];
            slot[class] = 0;
        }
    }
    if (hazard->clock % HALVING_TICKS == 0)
        fade(hazard);
    if (hazard->clock % REBUILD_TICKS == 0)
        rebuild(hazard);
}

/* ---- observing ---- */

void csc_hazard_born(csc_hazard *hazard, csc_hazard_mark *mark, bool tail)
{
    *mark = (csc_hazard_mark){.last = CSC_HAZARD_TICK(hazard->clock), .class = class_of_new(tail) & 63u};
    ++*living_of(hazard, mark);
}

/* The mark of a block used now; `mark` itself is left. The first gap is averaged with the mean of all.
 */
static csc_hazard_mark mark_after(const csc_hazard *hazard, const csc_hazard_mark *mark, bool tail)
{
    unsigned gap = bucket_of(hazard->clock - mark->last);
    double mean = hazard->gap_count > 0 ? hazard->gap_sum / hazard->gap_count : gap;
    unsigned pace = ((mark->reuse ? mark->pace : (unsigned)mean) + gap) / 2;
    unsigned reuse = mark->reuse < REUSE_MAX ? mark->reuse + 1u : REUSE_MAX;
    unsigned group = pace < mean - PACE_NEAR ? 0 : pace > mean + PACE_NEAR ? 2 : 1;

    return (csc_hazard_mark){.last = CSC_HAZARD_TICK(hazard->clock),
                             .class = class_of(reuse_group(reuse), group, tail) & 63u,
                             .reuse = reuse & 15u,
                             .pace = pace & 127u};
}

void csc_hazard_used(csc_hazard *hazard, csc_hazard_mark *mark, bool tail)
{
    --*living_of(hazard, mark);
    if (mark->last == hazard->clock) {
        mark->class |= tail;
    } else {
        csc_hazard_mark after = mark_after(hazard, mark, tail);
        unsigned gap = bucket_of(hazard->clock - mark->last);

        hazard->hit[mark->class][gap]++;
        hazard->gap_sum += gap;
        hazard->gap_count++;
        *mark = after;
    }
    ++*living_of(hazard, mark);
}

void csc_hazard_lost(csc_hazard *hazard, const csc_hazard_mark *mark)
{
    --*living_of(hazard, mark);
    hazard->lost[mark->class][bucket_of(hazard->clock - mark->last)]++;
}

float csc_hazard_value(const csc_hazard *hazard, const csc_hazard_mark *mark)
{
    return hazard->value[mark->class][bucket_of(hazard->clock - mark->last)];
}

float csc_hazard_value_if_used(const csc_hazard *hazard, const csc_hazard_mark *mark, bool tail)
{
    unsigned class = class_of_new(tail);

    if (mark && mark->last == hazard->clock)
        class = mark->class;
    else if (mark)
        class = mark_after(hazard, mark, tail).class;
    return hazard->value[class][0];
}
