/*
 * The sink contract as a test that any sink can be put to (levee/testing.h).
 *
 * The model is small, because the contract is: a list of batches, each open, in doubt (a crash cut
 * its commit short) or committed. Before a batch the driver looks where the runtime would: it opens
 * a new object, asks for the token, and believes it. What a stranger then sees must be what the
 * token says, for a transactional sink exactly, for an idempotent one in effect, for the others at
 * least.
 *
 * Record i of batch b has the key "b-i", so that whatever is seen names its batch.
 */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include "levee/testing.h"
#include "runtime/context.h"

#define BATCHES_MAX    64u
#define RECORDS_MAX    12u
#define PARTITIONS     3u
#define CRASH_STEP_MAX 6u

static _Thread_local struct {
    jmp_buf back;
    uint32_t steps_left; /* 0: no crash is due */
    bool armed;
} crash;

void levee_sink_step(void)
{
    if (crash.armed && crash.steps_left && --crash.steps_left == 0) {
        crash.armed = false;
        longjmp(crash.back, 1);
    }
}

enum state { NONE, DOUBTFUL, COMMITTED };

struct driver {
    const struct levee_sink_probe *p;
    struct levee_sink_finding *found;
    uint64_t rng, epoch;
    void *self; /* NULL: no object */
    struct levee_token identity;
    enum state state[BATCHES_MAX + 1];
    uint64_t sizes[BATCHES_MAX + 1]; /* records of a batch */
    uint64_t last;                   /* the newest that was begun */
    uint32_t seen[BATCHES_MAX + 1][RECORDS_MAX];
    bool strange, token_lost;
};

const char *levee_sink_rule_name(enum levee_sink_rule rule)
{
    static const char *const names[] = {
        "keeps the contract",           "a call failed",
        "shown before its commit",      "a committed record is missing",
        "a record is there twice",      "an abort left something",
        "the token is missing",         "the token is ahead of the data",
        "the token is behind the data", "a lost token is hidden",
        "a foreign place is accepted",  "a record that nobody wrote"};

    return (size_t)rule < ARRAY_LEN(names) ? names[rule] : "?";
}

static uint64_t pick(struct driver *d, uint64_t below)
{
    return rng_next(&d->rng) % below;
}

static bool finding(struct driver *d, enum levee_sink_rule rule, const char *where, uint64_t batch)
{
    d->found->rule = rule;
    (void)snprintf(d->found->text, sizeof d->found->text,
                   "%s: batch %llu, %s, in the life of epoch %llu", levee_sink_rule_name(rule),
                   (unsigned long long)batch, where, (unsigned long long)d->epoch);
    return false;
}

static bool call_failed(struct driver *d, const char *call, uint64_t batch,
                        const struct levee_error *err)
{
    char line[300];

    d->found->rule = LEVEE_SINK_CALL_FAILED;
    (void)snprintf(d->found->text, sizeof d->found->text, "%s of batch %llu failed: %s", call,
                   (unsigned long long)batch, levee_error_format(err, line, sizeof line));
    return false;
}

/* ---- what a stranger sees ---- */

static void see(void *arg, const struct levee_record *r)
{
    struct driver *d = arg;
    char text[64], *end = NULL;
    size_t n = r->key.len < sizeof text - 1 ? r->key.len : sizeof text - 1;

    memcpy(text, r->key.data, n);
    text[n] = '\0';
    uint64_t batch = strtoull(text, &end, 10);
    uint64_t index = *end == '-' ? strtoull(end + 1, &end, 10) : RECORDS_MAX;
    if (*end || batch == 0 || batch > BATCHES_MAX || index >= RECORDS_MAX) {
        d->strange = true;
    } else {
        d->seen[batch][index]++;
    }
}

static bool look(struct driver *d)
{
    memset(d->seen, 0, sizeof d->seen);
    d->strange = false;
    if (d->p->read(d->p->arg, see, d) != 0) {
        return finding(d, LEVEE_SINK_CALL_FAILED, "reading the place", d->last);
    }
    return !d->strange || finding(d, LEVEE_SINK_STRANGE_RECORD, "reading the place", d->last);
}

/* How many of a batch's records are there; the largest number of times one is. */
static uint64_t there(const struct driver *d, uint64_t batch, uint32_t *ret_most)
{
    uint64_t n = 0;

    *ret_most = 0;
    for (uint32_t i = 0; i < RECORDS_MAX; i++) {
        n += d->seen[batch][i] > 0;
        *ret_most = d->seen[batch][i] > *ret_most ? d->seen[batch][i] : *ret_most;
    }
    return n;
}

/* The place against the model. `open`: a batch that is being written; `where`: for the text. */
static bool compare(struct driver *d, uint64_t open, enum levee_sink_rule open_rule,
                    const char *where)
{
    bool strict = d->p->ops->kind == LEVEE_SINK_TRANSACTIONAL;

    if (!look(d)) {
        return false;
    }
    for (uint64_t b = 1; b <= d->last; b++) {
        uint32_t most = 0;
        uint64_t n = there(d, b, &most);
        if (d->state[b] == COMMITTED && n < d->sizes[b]) {
            return finding(d, LEVEE_SINK_RECORD_MISSING, where, b);
        }
        if (most > 1 && d->p->ops->kind != LEVEE_SINK_AT_LEAST_ONCE) {
            return finding(d, LEVEE_SINK_RECORD_TWICE, where, b);
        }
        if (strict && b == open && n > 0) {
            return finding(d, open_rule, where, b);
        }
    }
    return true;
}

/* ---- lives ---- */

static void drop(struct driver *d)
{
    if (d->self && d->p->crash) {
        d->p->crash(d->p->arg, d->self);
    }
    d->self = NULL;
}

static void end_orderly(struct driver *d)
{
    if (d->self && d->p->ops->close) {
        d->p->ops->close(d->self);
    }
    if (d->self && d->p->ops->destroy) {
        d->p->ops->destroy(d->self);
    }
    d->self = NULL;
}

/* The token must say what is there, neither more nor less. */
static bool believe(struct driver *d, enum levee_token_state state, const struct levee_token *token)
{
    uint64_t named = state == LEVEE_TOKEN_FOUND ? token->batch : 0, committed = 0;

    for (uint64_t b = 1; b <= d->last; b++) {
        committed = d->state[b] == COMMITTED ? b : committed;
    }
    if (d->token_lost) {
        d->token_lost = false;
        return state != LEVEE_TOKEN_NEVER || !committed ||
               finding(d, LEVEE_SINK_LOSS_HIDDEN, "after its token was lost", committed);
    }
    if (named < committed) {
        return finding(d, LEVEE_SINK_TOKEN_MISSING, "opening the place again", committed);
    }
    if (!look(d)) {
        return false;
    }
    for (uint64_t b = 1; b <= d->last; b++) {
        uint32_t most = 0;
        uint64_t n = there(d, b, &most);
        if (b <= named && n < d->sizes[b]) {
            return finding(d, LEVEE_SINK_TOKEN_AHEAD, "opening the place again", b);
        }
        if (b > named && n > 0 && d->p->ops->kind == LEVEE_SINK_TRANSACTIONAL) {
            return finding(d, LEVEE_SINK_TOKEN_BEHIND, "opening the place again", b);
        }
        d->state[b] = b <= named ? COMMITTED : NONE;
    }
    return true;
}

static bool begin_life(struct driver *d, bool foreign, enum levee_token_state *ret_state)
{
    const struct levee_sink_ops *ops = d->p->ops;
    struct levee_token identity = d->identity, token = {0};
    struct levee_error err = {0};

    *ret_state = LEVEE_TOKEN_NEVER;
    identity.epoch = ++d->epoch;
    if (foreign) {
        memset(identity.context, 'f', 32);
    }
    d->self = d->p->make(d->p->arg);
    if (!d->self || (ops->open && ops->open(d->self, &identity, &err))) {
        return call_failed(d, "open", d->last, &err);
    }
    if (ops->last_token && ops->last_token(d->self, ret_state, &token, &err)) {
        return call_failed(d, "last_token", d->last, &err);
    }
    if (foreign || !ops->last_token) {
        return true;
    }
    if (!believe(d, *ret_state, &token)) {
        return false;
    }
    if (ops->settle && ops->settle(d->self, &identity, &err)) {
        return call_failed(d, "settle", d->last, &err);
    }
    return true;
}

/* ---- a batch ---- */

struct lot { /* the records of a batch, the same on every try */
    struct levee_record records[RECORDS_MAX];
    char keys[RECORDS_MAX][32];
    uint8_t values[RECORDS_MAX][24];
    size_t count;
};

static void fill(const struct driver *d, uint64_t batch, struct lot *lot)
{
    uint64_t rng = d->found->seed * 7919 + batch;

    lot->count = 1 + (size_t)(rng_next(&rng) % (RECORDS_MAX - 1));
    for (size_t i = 0; i < lot->count; i++) {
        size_t len = (size_t)(rng_next(&rng) % sizeof lot->values[0]);
        for (size_t k = 0; k < len; k++) {
            uint64_t r = rng_next(&rng);
            lot->values[i][k] = d->p->text ? (uint8_t)('a' + r % 26) : (uint8_t)r;
        }
        int n =
            snprintf(lot->keys[i], sizeof lot->keys[i], "%llu-%zu", (unsigned long long)batch, i);
        lot->records[i] = (struct levee_record){slice_of(lot->keys[i], (size_t)n),
                                                slice_of(lot->values[i], len), 0};
    }
}

static bool write_all(struct driver *d, const struct levee_token *token, const struct lot *lot)
{
    const struct levee_sink_ops *ops = d->p->ops;
    struct levee_error err = {0};

    if (ops->begin && ops->begin(d->self, token, &err)) {
        return call_failed(d, "begin", token->batch, &err);
    }
    for (size_t p = 0; p < PARTITIONS; p++) {
        size_t from = lot->count * p / PARTITIONS, to = lot->count * (p + 1) / PARTITIONS;
        if (to > from && ops->write(d->self, p, lot->records + from, to - from, &err)) {
            return call_failed(d, "write", token->batch, &err);
        }
    }
    return true;
}

enum way { GOES_ON, CRASHED, BROKEN };

static enum way commit(struct driver *d, uint64_t batch)
{
    struct levee_error err = {0};

    crash.steps_left = pick(d, 3) == 0 ? 1 + (uint32_t)pick(d, CRASH_STEP_MAX) : 0;
    crash.armed = crash.steps_left > 0;
    if (setjmp(crash.back)) {
        d->state[batch] = DOUBTFUL;
        drop(d);
        return CRASHED;
    }
    int code = d->p->ops->commit ? d->p->ops->commit(d->self, &err) : LEVEE_OK;
    crash.armed = false;
    if (code) {
        (void)call_failed(d, "commit", batch, &err);
        return BROKEN;
    }
    d->state[batch] = COMMITTED;
    return compare(d, 0, LEVEE_SINK_KEEPS, "after its commit") ? GOES_ON : BROKEN;
}

static enum way one_batch(struct driver *d, uint64_t batch)
{
    struct levee_token token = d->identity;
    struct lot lot;

    fill(d, batch, &lot);
    token.epoch = d->epoch;
    token.batch = batch;
    token.time_ms = (int64_t)batch * 1000;
    token.digest = batch * 31 + 1;
    d->last = batch > d->last ? batch : d->last;
    d->sizes[batch] = lot.count;
    bool again =
        d->state[batch] == DOUBTFUL; /* without a token: whatever was there is written over */
    for (uint64_t aborts = pick(d, 4) == 0;; aborts--) {
        if (!write_all(d, &token, &lot)) {
            return BROKEN;
        }
        if (!compare(d, again ? 0 : batch, LEVEE_SINK_SHOWN_EARLY, "before its commit")) {
            return BROKEN;
        }
        if (pick(d, 6) == 0) {
            drop(d);
            return CRASHED;
        }
        if (!aborts) {
            return commit(d, batch);
        }
        if (d->p->ops->abort) {
            d->p->ops->abort(d->self);
            if (!compare(d, again ? 0 : batch, LEVEE_SINK_ABORT_LEFT, "after its abort")) {
                return BROKEN;
            }
        }
    }
}

/* The batch that the runtime would give next: the first one not committed. */
static uint64_t next_batch(const struct driver *d)
{
    uint64_t b = 1;

    while (b <= d->last && d->state[b] == COMMITTED) {
        b++;
    }
    return b;
}

static bool one_life(struct driver *d)
{
    enum levee_token_state state;
    enum way way = GOES_ON;

    if (!begin_life(d, false, &state)) {
        return false;
    }
    if (state == LEVEE_TOKEN_LOST) {
        drop(d);
        return true; /* the runtime refuses to start: as it should */
    }
    for (uint64_t n = 1 + pick(d, 4); n > 0 && way == GOES_ON; n--) {
        uint64_t b = next_batch(d);
        if (b > BATCHES_MAX) {
            break;
        }
        way = one_batch(d, b);
    }
    if (way == GOES_ON && pick(d, 2)) {
        end_orderly(d);
    }
    drop(d);
    return way != BROKEN && compare(d, 0, LEVEE_SINK_KEEPS, "after a life");
}

/* Another context must find the mark, if anything is there, and change nothing. */
static bool foreign_life(struct driver *d)
{
    enum levee_token_state state;
    bool marked = d->p->ops->last_token && next_batch(d) > 1;

    if (!begin_life(d, true, &state)) {
        return d->found->rule == LEVEE_SINK_CALL_FAILED && marked; /* refused in words */
    }
    drop(d);
    return !marked || state == LEVEE_TOKEN_FOREIGN ||
           finding(d, LEVEE_SINK_FOREIGN_ACCEPTED, "opened by another context", d->last);
}

static bool lost_token(struct driver *d)
{
    if (!d->p->lose_token || d->p->lose_token(d->p->arg) != 0) {
        return true;
    }
    d->token_lost = true;
    return one_life(d);
}

int levee_sink_conformance(const struct levee_sink_probe *probe, uint64_t seed, uint32_t lives,
                           struct levee_sink_finding *ret, struct levee_error *err)
{
    struct levee_sink_finding local = {.rule = LEVEE_SINK_KEEPS};
    struct driver *d = mem_zalloc(sizeof *d);
    bool fine = true;

    if (!d || !probe || !probe->ops || !probe->ops->write || !probe->make || !probe->read ||
        !probe->reset || probe->reset(probe->arg) != 0) {
        mem_free(d);
        return err_set(err, LEVEE_EINVALID,
                       "levee_sink_conformance: ops, make, read and a working reset are needed");
    }
    local.seed = seed;
    *d = (struct driver){.p = probe, .found = &local, .rng = seed};
    memset(d->identity.context, 'a', 32);
    (void)snprintf(d->identity.uid, sizeof d->identity.uid, "probed");
    for (uint32_t i = 0; i < lives && fine && next_batch(d) <= BATCHES_MAX; i++) {
        fine = one_life(d);
    }
    if (fine && probe->ops->kind != LEVEE_SINK_AT_LEAST_ONCE) {
        fine = foreign_life(d) && lost_token(d);
    }
    drop(d);
    mem_free(d);
    if (ret) {
        *ret = local;
    }
    if (fine) {
        return LEVEE_OK;
    }
    err_set(err, LEVEE_ESINK_FAILED, "the sink does not keep its contract: %s",
            levee_sink_rule_name(local.rule));
    err_where(err, "seed %llu", (unsigned long long)seed);
    err_found(err, "%s", local.text);
    return LEVEE_ESINK_FAILED;
}
