/*
 * A transactional sink in memory that outlives its context: what is committed is handed to the
 * test, record by record, with its token; what is not, nobody sees.
 */
#ifndef LEVEE_TESTS_PLACE_H
#define LEVEE_TESTS_PLACE_H

#include "base/base.h"
#include "levee/connect.h"

struct place {
    void (*take)(void *arg, const struct levee_token *token, const struct levee_record *record);
    void *arg;
    bool down; /* every begin fails for a while */

    struct levee_token token; /* of the newest batch that was committed; batch 0: none */
    uint64_t tries;           /* begins, those that failed included */
    struct levee_token now;
    struct buf staged; /* key, value and time of each record */
};
extern const struct levee_sink_ops place_ops; /* self: a place */

void place_release(struct place *p);

#endif
