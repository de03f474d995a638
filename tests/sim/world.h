/*
 * One simulated life after another: a small word count on io_sim, a sender that resends what was
 * not acknowledged, a sink outside the machine, and an oracle that knows only what was sent and
 * what a reader of the outputs sees.
 */
#ifndef LEVEE_TESTS_WORLD_H
#define LEVEE_TESTS_WORLD_H

#include "levee/testing.h"
#include "runtime/context.h"

#define WORLD_WORDS   6
#define WORLD_RECORDS 400

struct remote { /* a transactional sink on another machine: survives everything, answers unclearly
                   at times */
    uint64_t token_batch, token_epoch;
    bool marked;
    char context[33];
    int64_t totals[WORLD_WORDS]; /* last total seen of each word */
    bool staged_set[WORLD_WORDS];
    int64_t staged[WORLD_WORDS];
    uint64_t staged_batch, staged_epoch;
    uint64_t rng;
    uint32_t unclear_per_mille; /* commits that are applied but answer RETRY */
    uint32_t refuse_per_mille;  /* calls that answer RETRY and do nothing */
    uint64_t commits;
};

struct world_options {
    uint64_t seed;
    uint32_t lives;    /* that end in a crash, before the one that may finish */
    uint32_t records;  /* to send, at most WORLD_RECORDS */
    uint64_t crash_at; /* fixed step of the first life; 0: random */
    bool kills_only;   /* process death instead of power loss */
    bool verbose;
};

struct world_stats {
    uint64_t crashes, lives, images; /* images: hash of the last crashed image */
    uint64_t steps;                  /* of the first life */
    uint64_t by_point[CP_COUNT + 1]; /* the last named point passed before each crash */
    uint64_t in_flight[5];           /* nothing, receiving, computing/result, sinking, checkpoint */
};

/* Runs one seed; false: a promise is broken, `why` says which. */
bool world_run(const struct world_options *o, struct world_stats *stats, char why[512]);

#endif
