/*
 * Two sinks outside the simulated machine: a transactional one for totals, which refuses some of
 * them for good, and one for the dead letters that come of it. They survive everything and answer
 * unclearly at times.
 */
#ifndef LEVEE_TESTS_REMOTE_H
#define LEVEE_TESTS_REMOTE_H

#include "levee/connect.h"

#define WORLD_WORDS   6
#define WORLD_RECORDS 400

struct place { /* what any of them keeps beside its data */
    uint64_t token_batch, token_epoch;
    uint64_t staged_batch, staged_epoch;
    uint64_t rng;
    uint32_t unclear_per_mille; /* commits that are applied but answer RETRY */
    uint32_t away_per_mille;    /* calls that answer RETRY and do nothing */
};
/* What a sink there does beside its data: tokens, and answers that go astray. */
int place_token(struct place *p, enum levee_token_state *ret_state, struct levee_token *ret,
                struct levee_error *err);
int place_stage(struct place *p, const struct levee_token *t, struct levee_error *err);
int place_may_commit(struct place *p, struct levee_error *err);
int place_committed(struct place *p, struct levee_error *err);

struct remote {
    struct place at;
    int64_t totals[WORLD_WORDS]; /* last total seen of each word */
    bool seen[WORLD_WORDS][WORLD_RECORDS + 1];
    bool staged_set[WORLD_WORDS];
    int64_t staged[WORLD_WORDS];
    uint64_t written;
    struct levee_refusal refused[WORLD_WORDS];
    size_t refused_count;
};
struct letters {
    struct place at;
    bool seen[WORLD_WORDS][WORLD_RECORDS + 1];
    struct {
        int word;
        int64_t total;
    } staged[WORLD_WORDS];
    size_t staged_count;
};

extern const struct levee_sink_ops remote_ops, letters_ops;

/* Pure: every try of every life meets the same refusals. */
bool remote_refuses(int word, int64_t total);
void remote_init(struct remote *r, struct letters *l, uint64_t seed);
const char *world_word(int i);
int world_word_index(struct levee_slice s); /* -1: none */

#endif
