/*
 * Event time in the simulated world: sessions, timers and late records of the same lines, into one
 * sink on another machine that knows what may come there, and that it comes once.
 */
#ifndef LEVEE_TESTS_EVENTS_H
#define LEVEE_TESTS_EVENTS_H

#include "tests/sim/remote.h"

#define EVENTS_SLOTS 64 /* of 100 ms: more than 400 records fill */

struct event_session {
    int word;
    int64_t start_ms, end_ms, count;
    bool seen;
};
struct event { /* a record on its way into the sink */
    char what; /* 's'ession, 't'imer, 'i'n time, 'l'ate */
    size_t at; /* which session, slot, or line */
};
struct events {
    struct place at;
    const int *words; /* of the lines */
    uint32_t lines;
    int64_t complete_ms; /* the watermark when all lines are there */
    struct event_session sessions[WORLD_RECORDS];
    size_t session_count;
    bool slot_set[WORLD_WORDS][EVENTS_SLOTS], slot_seen[WORLD_WORDS][EVENTS_SLOTS];
    bool line_seen[WORLD_RECORDS];
    struct event staged[4 * WORLD_RECORDS];
    size_t staged_count;
};

int64_t events_time(uint32_t line); /* of a line: they come a little out of order */
void events_init(struct events *e, uint64_t seed, const int *words, uint32_t lines);
void events_build(levee_stream *lines, struct events *e);
/* After a drain: what should have come and has not; NULL: nothing. */
const char *events_missing(const struct events *e);

#endif
