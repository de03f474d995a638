/*
 * One simulated life after another: a small word count on io_sim, a sender that resends what was
 * not acknowledged, a sink outside the machine, and an oracle that knows only what was sent and
 * what a reader of the outputs sees.
 */
#ifndef LEVEE_TESTS_WORLD_H
#define LEVEE_TESTS_WORLD_H

#include "levee/testing.h"
#include "runtime/context.h"
#include "tests/sim/events.h"
#include "tests/sim/remote.h"
#include "tests/sim/upstream.h"

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
    uint64_t reread;                 /* records read again by recoveries in positions mode */
    uint64_t recycled;               /* log segments that began a second life */
    uint64_t steps;                  /* of the first life */
    uint64_t by_point[CP_COUNT + 1]; /* the last named point passed before each crash */
    uint64_t in_flight[5];           /* nothing, receiving, computing/result, sinking, checkpoint */
};

/* Runs one seed; false: a promise is broken, `why` says which. */
bool world_run(const struct world_options *o, struct world_stats *stats, char why[512]);

#endif
