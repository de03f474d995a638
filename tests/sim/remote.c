#include "tests/sim/remote.h"

#include "base/base.h"

#define REFUSED_CODE 10

bool remote_refuses(int word, int64_t total)
{
    return (total * 5 + word) % 7 == 3;
}

const char *world_word(int i)
{
    static const char *const texts[WORLD_WORDS] = {"ash",     "birch", "cedar",
                                                   "dogwood", "elm",   "fir"};

    return texts[i];
}

int world_word_index(struct levee_slice s)
{
    for (int i = 0; i < WORLD_WORDS; i++) {
        if (slice_eq(s, slice_str(world_word(i)))) {
            return i;
        }
    }
    return -1;
}

/* ---- what both have ---- */

static bool chance(struct place *p, uint32_t per_mille)
{
    return rng_next(&p->rng) % 1000 < per_mille;
}

static int away(struct place *p, struct levee_error *err)
{
    return chance(p, p->away_per_mille) ? err_set(err, LEVEE_ECONNECTION, "remote sink away")
                                        : LEVEE_OK;
}

int place_token(struct place *p, enum levee_token_state *ret_state, struct levee_token *ret,
                struct levee_error *err)
{
    int code = away(p, err);

    if (code == LEVEE_OK) {
        *ret_state = p->token_batch ? LEVEE_TOKEN_FOUND : LEVEE_TOKEN_NEVER;
        *ret = (struct levee_token){.batch = p->token_batch, .epoch = p->token_epoch};
    }
    return code;
}

int place_may_commit(struct place *p, struct levee_error *err)
{
    int code = away(p, err);

    if (code == LEVEE_OK &&
        (p->staged_batch <= p->token_batch || p->staged_epoch < p->token_epoch)) {
        code = err_set(err, LEVEE_ESINK_FAILED, "remote sink: batch %llu again or by an older life",
                       (unsigned long long)p->staged_batch);
    }
    return code;
}

int place_committed(struct place *p, struct levee_error *err)
{
    p->token_batch = p->staged_batch;
    p->token_epoch = p->staged_epoch;
    return chance(p, p->unclear_per_mille)
               ? err_set(err, LEVEE_ECONNECTION, "remote sink: answer lost")
               : LEVEE_OK;
}

int place_stage(struct place *p, const struct levee_token *t, struct levee_error *err)
{
    int code = away(p, err);

    if (code == LEVEE_OK) {
        p->staged_batch = t->batch;
        p->staged_epoch = t->epoch;
    }
    return code;
}

/* ---- totals ---- */

static int remote_token(void *self, enum levee_token_state *ret_state, struct levee_token *ret,
                        struct levee_error *err)
{
    struct remote *r = self;

    return place_token(&r->at, ret_state, ret, err);
}

static int remote_begin(void *self, const struct levee_token *t, struct levee_error *err)
{
    struct remote *r = self;

    memset(r->staged_set, 0, sizeof r->staged_set);
    r->written = r->refused_count = 0;
    return place_stage(&r->at, t, err);
}

static int remote_write(void *self, size_t partition, const struct levee_record *records, size_t n,
                        struct levee_error *err)
{
    struct remote *r = self;

    (void)partition;
    for (size_t i = 0; i < n; i++) {
        int k = world_word_index(records[i].key);
        if (k < 0 || r->staged_set[k]) {
            return err_set(err, LEVEE_ESINK_FAILED,
                           "remote sink: a word is unknown or twice in one batch");
        }
        r->staged_set[k] = true;
        r->staged[k] = levee_i64(records[i].value);
        if (remote_refuses(k, r->staged[k])) {
            r->refused[r->refused_count++] = (struct levee_refusal){r->written, REFUSED_CODE};
        }
        r->written++;
    }
    /* At once, or only at commit: a sink may notice at any time. */
    return r->refused_count && chance(&r->at, 500)
               ? err_set(err, LEVEE_ESINK_REFUSED, "remote sink: a total is refused")
               : LEVEE_OK;
}

static int remote_commit(void *self, struct levee_error *err)
{
    struct remote *r = self;

    if (r->refused_count) {
        return err_set(err, LEVEE_ESINK_REFUSED, "remote sink: a total is refused");
    }
    int code = place_may_commit(&r->at, err);
    for (int k = 0; k < WORLD_WORDS && code == LEVEE_OK; k++) {
        if (r->staged_set[k] && (r->staged[k] <= r->totals[k] || r->staged[k] > WORLD_RECORDS)) {
            return err_set(err, LEVEE_ESINK_FAILED, "remote sink: %s goes from %lld to %lld",
                           world_word(k), (long long)r->totals[k], (long long)r->staged[k]);
        }
        if (r->staged_set[k]) {
            r->totals[k] = r->staged[k];
            r->seen[k][r->staged[k]] = true;
        }
    }
    return code ? code : place_committed(&r->at, err);
}

static size_t remote_refused(void *self, struct levee_refusal *out, size_t cap)
{
    const struct remote *r = self;

    for (size_t i = 0; i < r->refused_count && i < cap; i++) {
        out[i] = r->refused[i];
    }
    return r->refused_count;
}

const struct levee_sink_ops remote_ops = {
    .version = 1,
    .kind = LEVEE_SINK_TRANSACTIONAL,
    .last_token = remote_token,
    .begin = remote_begin,
    .write = remote_write,
    .commit = remote_commit,
    .refused = remote_refused,
};

/* ---- dead letters ---- */

static int letters_token(void *self, enum levee_token_state *ret_state, struct levee_token *ret,
                         struct levee_error *err)
{
    struct letters *l = self;

    return place_token(&l->at, ret_state, ret, err);
}

static int letters_begin(void *self, const struct levee_token *t, struct levee_error *err)
{
    struct letters *l = self;

    l->staged_count = 0;
    return place_stage(&l->at, t, err);
}

static int letters_write(void *self, size_t partition, const struct levee_record *records, size_t n,
                         struct levee_error *err)
{
    struct letters *l = self;
    struct levee_dead_letter d;

    (void)partition;
    for (size_t i = 0; i < n; i++) {
        if (!levee_dead_letter_of(&records[i], &d) || strcmp(d.uid, "remote") != 0 ||
            d.code != REFUSED_CODE || d.batch != l->at.staged_batch ||
            world_word_index(d.key) < 0 || l->staged_count == WORLD_WORDS) {
            return err_set(err, LEVEE_ESINK_FAILED, "letters: a strange letter from %s", d.uid);
        }
        l->staged[l->staged_count].word = world_word_index(d.key);
        l->staged[l->staged_count++].total = levee_i64(d.value);
    }
    return LEVEE_OK;
}

static int letters_commit(void *self, struct levee_error *err)
{
    struct letters *l = self;
    int code = place_may_commit(&l->at, err);

    for (size_t i = 0; i < l->staged_count && code == LEVEE_OK; i++) {
        int k = l->staged[i].word;
        int64_t total = l->staged[i].total;
        if (total < 0 || total > WORLD_RECORDS || !remote_refuses(k, total) || l->seen[k][total]) {
            return err_set(err, LEVEE_ESINK_FAILED,
                           "letters: %s %lld is a second time here, or should not be",
                           world_word(k), (long long)total);
        }
        l->seen[k][total] = true;
    }
    return code ? code : place_committed(&l->at, err);
}

const struct levee_sink_ops letters_ops = {
    .version = 1,
    .kind = LEVEE_SINK_TRANSACTIONAL,
    .last_token = letters_token,
    .begin = letters_begin,
    .write = letters_write,
    .commit = letters_commit,
};

void remote_init(struct remote *r, struct letters *l, uint64_t seed)
{
    *r = (struct remote){.at = {.rng = seed + 7, .unclear_per_mille = 60, .away_per_mille = 40}};
    *l = (struct letters){.at = {.rng = seed + 11, .unclear_per_mille = 60, .away_per_mille = 40}};
}
