/*
 * One run of a case on a simulated machine: virtual time, a replayable queue source, and a
 * transactional sink that lives outside the machine, so that it sees a batch that comes twice.
 *
 * Batch k is due at base + k intervals. Its input is pushed half an interval before, and durable
 * long before the tick; disturbances come after that, so they may delay a batch but not move a
 * record to another one.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cases/runner/case.h"

#define KILLS_PER_BATCH 2
#define KILL_STEPS      220 /* a batch with its checkpoint makes about so many steps */
#define LIVES_MAX       5000

/* ---- the sink ---- */

struct catcher {
    const struct the_case *c;
    int64_t base_ms;
    char *why;
    struct levee_token last;
    bool has_last;
    struct levee_token now;
    cJSON *staged;
    cJSON **batches; /* by k: what was committed; NULL: nothing */
};

static int catch_open(void *self, const struct levee_token *identity, struct levee_error *err)
{
    (void)self;
    (void)identity;
    (void)err;
    return LEVEE_OK;
}

static int catch_token(void *self, enum levee_token_state *ret_state, struct levee_token *ret,
                       struct levee_error *err)
{
    struct catcher *s = self;

    (void)err;
    *ret_state = s->has_last ? LEVEE_TOKEN_FOUND : LEVEE_TOKEN_NEVER;
    *ret = s->last;
    return LEVEE_OK;
}

static int catch_begin(void *self, const struct levee_token *token, struct levee_error *err)
{
    struct catcher *s = self;

    (void)err;
    cJSON_Delete(s->staged);
    s->staged = cJSON_CreateArray();
    s->now = *token;
    return LEVEE_OK;
}

static int catch_write(void *self, size_t partition, const struct levee_record *records, size_t n,
                       struct levee_error *err)
{
    struct catcher *s = self;

    (void)partition;
    (void)err;
    for (size_t i = 0; i < n; i++) {
        cJSON_AddItemToArray(s->staged, element_of(&records[i]));
    }
    return LEVEE_OK;
}

static int catch_commit(void *self, struct levee_error *err)
{
    struct catcher *s = self;
    int64_t k = (s->now.time_ms - s->base_ms) / s->c->batch_ms;

    (void)err;
    if (k < 1 || k > s->c->num_batches || s->batches[k]) {
        (void)snprintf(s->why, CASE_WHY, "batch %" PRId64 ", expected once and in time, got %s", k,
                       k >= 1 && k <= s->c->num_batches ? "twice" : "out of time");
        k = 0;
    }
    cJSON_Delete(s->batches[k]);
    s->batches[k] = s->staged;
    s->staged = NULL;
    s->last = s->now;
    s->has_last = true;
    return LEVEE_OK;
}

static void catch_abort(void *self)
{
    struct catcher *s = self;

    cJSON_Delete(s->staged);
    s->staged = NULL;
}

static const struct levee_sink_ops catch_ops = {.version = 1,
                                                .kind = LEVEE_SINK_TRANSACTIONAL,
                                                .open = catch_open,
                                                .last_token = catch_token,
                                                .begin = catch_begin,
                                                .write = catch_write,
                                                .commit = catch_commit,
                                                .abort = catch_abort};

static void catcher_init(struct catcher *s, const struct the_case *c, int64_t base_ms,
                         char *why) /* NOLINT(readability-non-const-parameter): kept */
{
    *s = (struct catcher){.c = c, .base_ms = base_ms, .why = why};
    s->batches = calloc((size_t)c->num_batches + 1, sizeof(cJSON *));
}

static void catcher_release(struct catcher *s)
{
    for (int k = 0; k <= s->c->num_batches; k++) {
        cJSON_Delete(s->batches[k]);
    }
    free(s->batches);
    cJSON_Delete(s->staged);
}

/* ---- the run ---- */

struct run {
    const struct the_case *c;
    const struct variant *v;
    char *why;
    int64_t base_ms;
    struct levee_testing *sim;
    levee_context *ctx;
    struct built built;
    struct catcher output, states;
    uint64_t first[CASE_INPUTS], count[CASE_INPUTS]; /* sequences of the batch at hand */
    size_t partitions;                               /* of the output */
    uint64_t rng;
    int lives;
};

static uint64_t pick(struct run *r, uint64_t below)
{
    r->rng = r->rng * 6364136223846793005u + 1442695040888963407u;
    return (r->rng >> 33) % below;
}

static int see_partitions(levee_batch *batch, const struct levee_token *token, void *arg,
                          struct levee_error *err)
{
    (void)token;
    (void)err;
    ((struct run *)arg)->partitions = levee_batch_partitions(batch);
    return LEVEE_OK;
}

static int setup(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct run *r = arg;

    r->built = (struct built){.output = NULL};
    if (!build_case(ctx, r->c, r->base_ms, &r->built)) {
        int code = levee_context_status(ctx, err);
        return code ? code : LEVEE_EUNSUPPORTED;
    }
    levee_sink(r->built.output, "output", &catch_ops, &r->output);
    if (field(r->c->json, "expected_partitions")) {
        levee_foreach_batch(r->built.output, "partitions", see_partitions, r);
    }
    if (r->built.stateful &&
        (field(r->c->json, "expected_state") || field(r->c->json, "expected_overall"))) {
        levee_sink(levee_state_snapshots(r->built.stateful), "states", &catch_ops, &r->states);
    }
    return levee_context_status(ctx, err);
}

static void set_crash(struct run *r, uint64_t steps_from_now)
{
    struct levee_sim_options o = {.seed = r->rng | 1};

    o.crash_at_step = steps_from_now ? levee_sim_steps(r->sim) + steps_from_now : 0;
    levee_sim_set(r->sim, &o);
}

static int no_record(void *arg, int64_t time_ms, const struct levee_record *record)
{
    (void)arg;
    (void)time_ms;
    (void)record;
    return 0;
}

static int begin_life(struct run *r, struct levee_error *err)
{
    struct levee_options o = {.directory = "state",
                              .batch_interval_ms = (uint32_t)r->c->batch_ms,
                              .workers = r->v->workers,
                              .partitions = 3,
                              .segment_bytes = 64 << 10,
                              .checkpoint_batches = 2,
                              .empty_batches = true,
                              .guarantee = LEVEE_ANY,
                              .testing = r->sim};

    r->lives++;
    const char *when = text_field(field(r->c->json, "expected_error"), "when");
    int code = levee_get_or_create(&r->ctx, &o, setup, r, err);
    if (code == LEVEE_OK && r->lives == 1 && when && strcmp(when, "before_start") == 0) {
        code = levee_slice_each(r->ctx, "remembered", r->base_ms, r->base_ms, no_record, NULL, err);
    }
    return code ? code : levee_start(r->ctx, err);
}

static void end_life(struct run *r)
{
    levee_free(r->ctx);
    r->ctx = NULL;
}

/* Process death, now: nothing of what is under way completes. */
static void kill_now(struct run *r)
{
    set_crash(r, 1);
    levee_sim_run_ms(r->sim, 0);
    end_life(r);
    levee_sim_kill(r->sim);
    set_crash(r, 0);
}

static int push(struct run *r, int i, const cJSON *list, struct levee_error *err)
{
    size_t n = (size_t)cJSON_GetArraySize(list), at = 0;
    struct levee_record *records = calloc(n + 1, sizeof *records);
    const cJSON *x;
    int code;

    cJSON_ArrayForEach(x, list)
    {
        bool pair = is_pair(x);
        const cJSON *value = pair ? cJSON_GetArrayItem(x, 1) : x;
        if (pair) {
            records[at].key = levee_text(cJSON_PrintUnformatted(cJSON_GetArrayItem(x, 0)));
        }
        records[at++].value = levee_text(cJSON_PrintUnformatted(value));
    }
    code = levee_queue_push(r->built.source[i], records, n, r->first[i], err);
    for (size_t k = 0; k < n; k++) {
        free((void *)(uintptr_t)records[k].key.data);
        free((void *)(uintptr_t)records[k].value.data);
    }
    free(records);
    return code;
}

/* The datasets of queueStream: one for each batch, or all that wait. */
static const cJSON *queued(const struct the_case *c, int k, cJSON **ret_owned)
{
    bool one = cJSON_IsTrue(field(c->parameters, "one_at_a_time"));
    cJSON *all = cJSON_CreateArray();
    int waiting = 0;

    for (int batch = 0; batch < k; batch++) { /* which datasets have not been taken before k? */
        const cJSON *sets = cJSON_GetArrayItem(c->input[0], batch), *set;
        int index = 0;
        cJSON_ArrayForEach(set, sets)
        {
            bool taken = one ? waiting != k - 1 : batch != k - 1;
            const cJSON *x;
            cJSON_ArrayForEach(x, set)
            {
                if (!taken) {
                    cJSON_AddItemToArray(all, cJSON_Duplicate(x, true));
                }
            }
            waiting++;
            index++;
        }
        /* A batch that found the queue empty has taken nothing: later ones do not catch up. */
        waiting = one && waiting < batch + 1 ? batch + 1 : waiting;
    }
    *ret_owned = all;
    return all;
}

static int feed(struct run *r, int k, struct levee_error *err)
{
    int code = LEVEE_OK;

    for (int i = 0; i < CASE_INPUTS && code == LEVEE_OK; i++) {
        cJSON *owned = NULL;
        const cJSON *list = r->c->input[i] ? cJSON_GetArrayItem(r->c->input[i], k - 1) : NULL;
        if (i == 0 && strcmp(r->c->operation, "queueStream") == 0) {
            list = queued(r->c, k, &owned);
        }
        if (list && cJSON_IsArray(list) && cJSON_GetArraySize(list)) {
            r->count[i] = (uint64_t)cJSON_GetArraySize(list);
            code = push(r, i, list, err);
        }
        cJSON_Delete(owned);
    }
    return code;
}

static void next_sequences(struct run *r)
{
    for (int i = 0; i < CASE_INPUTS; i++) {
        r->first[i] += r->count[i];
        r->count[i] = 0;
    }
}

/* Virtual time goes on until `ms` after the base. */
static void advance_to(struct run *r, int64_t ms)
{
    int64_t now = levee_sim_wall_ms(r->sim) - r->base_ms;

    if (now < ms) {
        levee_sim_run_ms(r->sim, (uint64_t)(ms - now));
    }
}

/* Kills at random steps of this batch; every one is followed by a new life. */
static int advance_with_kills(struct run *r, int64_t ms, struct levee_error *err)
{
    int kills = r->v->random_kills ? KILLS_PER_BATCH : 0, code = LEVEE_OK;

    while (kills-- > 0 && r->lives < LIVES_MAX) {
        set_crash(r, 1 + pick(r, KILL_STEPS));
        advance_to(r, ms);
        if (!levee_sim_crashed(r->sim)) {
            break;
        }
        do {
            end_life(r);
            levee_sim_kill(r->sim);
            set_crash(r, kills > 0 && pick(r, 2) ? 1 + pick(r, KILL_STEPS) : 0);
            code = begin_life(r, err);
        } while (code && levee_sim_crashed(r->sim) && r->lives < LIVES_MAX);
        if (code) {
            return code;
        }
    }
    set_crash(r, 0);
    advance_to(r, ms);
    return code;
}

/* One batch; the context's error, if that has failed. */
static int run_batch(struct run *r, int k, struct levee_error *err)
{
    const int64_t ms = r->c->batch_ms;
    int code;

    advance_to(r, (k - 1) * ms + ms / 2);
    if ((code = feed(r, k, err)) != LEVEE_OK) {
        return code;
    }
    advance_to(r, (k - 1) * ms + ms / 2 + ms / 4);
    code = advance_with_kills(r, k * ms + ms / 4, err);
    next_sequences(r);
    if (code == LEVEE_OK) {
        code = levee_await_for(r->ctx, 0, err);
        code = code == LEVEE_ETIMEOUT ? LEVEE_OK : code; /* it is running */
    }
    if (code == LEVEE_OK && (r->v->kill_each || r->v->kill_after == k)) {
        kill_now(r);
        code = begin_life(r, err);
    } else if (code == LEVEE_OK && r->v->stop_after == k) {
        code = levee_drain(r->ctx, 0, err);
        code = code ? code : levee_await(r->ctx, err);
        end_life(r);
        code = code ? code : begin_life(r, err);
    }
    return code;
}

/* ---- what came out ---- */

static void differs(struct run *r, const char *what, int k, const cJSON *want, const cJSON *got)
{
    char *w = cJSON_PrintUnformatted(want), *g = cJSON_PrintUnformatted(got);

    (void)snprintf(r->why, CASE_WHY, "%s %d, expected %.800s, got %.800s", what, k,
                   w ? w : "nothing", g ? g : "nothing");
    cJSON_free(w);
    cJSON_free(g);
}

static bool check_list(struct run *r, const char *what, const struct catcher *s,
                       const cJSON *expected, int slide, int until, bool ordered, bool values_any)
{
    cJSON *none = cJSON_CreateArray();
    bool fine = true;
    int n = cJSON_GetArraySize(expected);

    for (int k = 1, i = 0; k <= until && fine; k++) {
        const cJSON *got = s->batches[k] ? s->batches[k] : none;
        if (k % slide) {
            fine = cJSON_GetArraySize(got) == 0;
            if (!fine) {
                differs(r, what, k, none, got);
            }
            continue;
        }
        const cJSON *want = i < n ? cJSON_GetArrayItem(expected, i) : none;
        i++;
        want = cJSON_IsArray(want) ? want : none;
        fine = same_records(want, got, ordered, values_any);
        if (!fine) {
            differs(r, what, k, want, got);
        }
    }
    cJSON_Delete(none);
    return fine;
}

static bool check_overall(struct run *r, const cJSON *overall)
{
    const cJSON *total = field(overall, "mapped_total"), *seen = field(overall, "snapshot_seen");
    const cJSON *last = field(overall, "last_snapshot");
    cJSON *all = cJSON_CreateArray(), *none = cJSON_CreateArray();
    bool fine = true, found = !seen;

    for (int k = 1; k <= r->c->num_batches; k++) {
        const cJSON *x;
        cJSON_ArrayForEach(x, r->output.batches[k])
        {
            cJSON_AddItemToArray(all, cJSON_Duplicate(x, true));
        }
        const cJSON *state = r->states.batches[k] ? r->states.batches[k] : none;
        found = found || same_records(seen, state, false, false);
    }
    if (total && !same_records(total, all, false, false)) {
        differs(r, "all of", r->c->num_batches, total, all);
        fine = false;
    }
    if (fine && !found) {
        differs(r, "a snapshot in", r->c->num_batches, seen, none);
        fine = false;
    }
    const cJSON *end = r->states.batches[r->c->num_batches];
    if (fine && last && !same_records(last, end ? end : none, false, false)) {
        differs(r, "last snapshot", r->c->num_batches, last, end);
        fine = false;
    }
    cJSON_Delete(all);
    cJSON_Delete(none);
    return fine;
}

static int add_record(void *arg, int64_t time_ms, const struct levee_record *record)
{
    (void)time_ms;
    cJSON_AddItemToArray(arg, element_of(record));
    return 0;
}

/* The answers to a slice's queries, in the place of batches. */
static bool check_slices(struct run *r, const cJSON *expected, bool ordered)
{
    const cJSON *queries = field(r->c->parameters, "queries_ms"), *q;
    bool fine = true;
    int i = 0;

    cJSON_ArrayForEach(q, queries)
    {
        int64_t from = r->base_ms + (int64_t)cJSON_GetArrayItem(q, 0)->valuedouble;
        int64_t to = r->base_ms + (int64_t)cJSON_GetArrayItem(q, 1)->valuedouble;
        cJSON *got = cJSON_CreateArray(), *none = cJSON_CreateArray();
        const cJSON *want = cJSON_GetArrayItem(expected, i++);
        struct levee_error err = {0};
        char line[1024];
        int code = levee_slice_each(r->ctx, "remembered", from, to, add_record, got, &err);
        if (code && fine) {
            (void)snprintf(r->why, CASE_WHY, "query %d, expected records, got %s", i,
                           levee_error_format(&err, line, sizeof line));
            fine = false;
        }
        if (fine && !same_records(want ? want : none, got, ordered, false)) {
            differs(r, "query", i, want, got);
            fine = false;
        }
        cJSON_Delete(got);
        cJSON_Delete(none);
    }
    return fine;
}

static bool check(struct run *r, int until)
{
    const cJSON *j = r->c->json, *expected = field(j, "expected"), *p;
    const char *order = text_field(j, "value_order");
    bool ordered = cJSON_IsTrue(field(j, "ordered"));

    if (r->why[0]) {
        return false; /* the sink saw something */
    }
    if (strcmp(r->c->operation, "slice") == 0) {
        return check_slices(r, expected, ordered);
    }
    if (expected && !check_list(r, "batch", &r->output, expected, r->c->slide, until, ordered,
                                order && strcmp(order, "any") == 0)) {
        return false;
    }
    if (field(j, "expected_state") && r->built.stateful &&
        !check_list(r, "state after batch", &r->states, field(j, "expected_state"), 1, until, false,
                    false)) {
        return false;
    }
    if (field(j, "expected_overall") && !check_overall(r, field(j, "expected_overall"))) {
        return false;
    }
    p = field(j, "expected_partitions");
    if (cJSON_IsNumber(p) && r->partitions && (int)r->partitions != p->valueint) {
        (void)snprintf(r->why, CASE_WHY, "batch 1, expected %d partitions, got %zu", p->valueint,
                       r->partitions);
        return false;
    }
    return true;
}

static bool judge(struct run *r, int code, int at, const struct levee_error *err)
{
    const cJSON *want = field(r->c->json, "expected_error");
    int want_at = int_field(want, "at_batch", 0);
    char line[1024];

    if (!code && want) {
        (void)snprintf(r->why, CASE_WHY, "batch %d, expected an error, got none",
                       want_at ? want_at : at);
        return false;
    }
    if (code && (!want || (want_at && want_at != at))) {
        (void)snprintf(r->why, CASE_WHY, "batch %d, expected %s, got %.900s", at,
                       want ? "the error at another batch" : "no error",
                       levee_error_format(err, line, sizeof line));
        return false;
    }
    if (code && strcmp(r->c->operation, "slice") == 0) {
        return true; /* there is nobody to ask */
    }
    return check(r, code ? at - 1 : r->c->num_batches);
}

bool run_case(const struct the_case *c, const struct variant *v, char why[CASE_WHY])
{
    /* A multiple of every slide that a case can have, so that batch k is due where k is. */
    const int64_t step = c->batch_ms * 5040;
    struct run r = {.c = c, .v = v, .why = why, .base_ms = (1700000000000 / step + 1) * step};
    struct levee_sim_options sim = {.seed = 1 + v->random_kills, .wall_ms = r.base_ms};
    struct levee_error err = {0};
    int code, k = 0;

    why[0] = '\0';
    r.rng = v->random_kills + 99;
    for (int i = 0; i < CASE_INPUTS; i++) {
        r.first[i] = 1;
    }
    catcher_init(&r.output, c, r.base_ms, why);
    catcher_init(&r.states, c, r.base_ms, why);
    if (levee_sim_new(&r.sim, &sim, &err) != LEVEE_OK) {
        (void)snprintf(why, CASE_WHY, "no simulated machine: %s", err.what);
        return false;
    }
    code = begin_life(&r, &err);
    while (code == LEVEE_OK && k < c->num_batches) {
        code = run_batch(&r, ++k, &err);
    }
    bool fine = judge(&r, code, k, &err);
    end_life(&r);
    levee_sim_free(r.sim);
    catcher_release(&r.output);
    catcher_release(&r.states);
    return fine;
}
