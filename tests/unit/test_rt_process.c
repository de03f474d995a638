/*
 * process_by_key in random runs against a model that looks at every timer of every key in every
 * batch; engines with 1, 2 and 7 workers, of which some die and come back. Batch k has time 1000 k.
 */
#include "runtime/exec.h"
#include "tests/unit/test_rt_functions.h"

#define KEYS    9
#define BATCHES 30u
#define TIMERS  400

static uint64_t keys_of(const struct bed *b)
{
    uint64_t keys, bytes;

    rt_engine_state_size(b->engine, &keys, &bytes);
    return keys;
}

struct modeled {
    bool has_state;
    int64_t state;
    int64_t timers[2][TIMERS];
    size_t count[2];
};
static struct modeled model[KEYS];
static char lines[2][4096][48];
static size_t line_count[2];

/* The state is a number; a record adds its own and sets timers that follow from it; so do timers.
 */
static uint64_t scatter(int64_t n)
{
    uint64_t x = (uint64_t)n * 0x9e3779b97f4a7c15u;

    return x ^ x >> 31;
}

struct plan {
    int64_t event, batch, cancel; /* INT64_MIN: not */
    bool remove, fail;
};
static struct plan plan_of(int64_t n, int64_t from, int64_t now)
{
    uint64_t x = scatter(n);
    struct plan p = {INT64_MIN, INT64_MIN, INT64_MIN, x % 11 == 0, x % 13 == 5};

    if (x % 3 == 0) {
        p.event = from + (int64_t)(x >> 8) % 60 - 10;
    }
    if (x % 5 == 0) {
        p.batch = now + (int64_t)((x >> 16) % 6) * 500 - 500;
    }
    if (x % 4 == 0) {
        p.cancel = from + (int64_t)(x >> 20) % 40;
    }
    return p;
}

static int follow(levee_state *state, int64_t add, int64_t from, int64_t now)
{
    struct levee_slice old;
    int64_t n = (levee_state_get(state, &old) ? levee_i64(old) : 0) + add;
    struct plan p = plan_of(n, from, now);

    MUST(levee_state_set_i64(state, n) == 0);
    MUST(p.event == INT64_MIN || levee_timer_event(state, p.event) == 0);
    MUST(p.batch == INT64_MIN || levee_timer_processing(state, p.batch) == 0);
    if (p.cancel != INT64_MIN) {
        levee_timer_cancel_event(state, p.cancel);
    }
    if (p.remove) {
        levee_state_remove(state);
    }
    return p.fail ? -9 : 0;
}
static int run_record(levee_output *out, levee_state *state, const struct levee_record *in,
                      void *arg)
{
    (void)arg;
    return follow(state, levee_i64(in->value), in->time_ms, levee_batch_time(out));
}
static int run_timer(levee_output *out, levee_state *state, struct levee_slice key,
                     const struct levee_timer *timer, void *arg)
{
    struct levee_slice old;
    char text[48];

    (void)arg;
    int n = snprintf(text, sizeof text, "%c%lld %lld", timer->processing ? 'p' : 'e',
                     (long long)timer->time_ms,
                     levee_state_get(state, &old) ? (long long)levee_i64(old) : -1LL);
    MUST(levee_emit_copy(out, key, slice_of(text, (size_t)n)) == 0);
    return follow(state, 1, timer->processing ? levee_watermark(out) : timer->time_ms,
                  levee_batch_time(out));
}

static void model_timer(struct modeled *k, int kind, int64_t at, bool set)
{
    for (size_t i = 0; i < k->count[kind]; i++) {
        if (k->timers[kind][i] == at) {
            if (!set) {
                k->timers[kind][i] = k->timers[kind][--k->count[kind]];
            }
            return;
        }
    }
    if (set) {
        MUST(k->count[kind] < TIMERS);
        k->timers[kind][k->count[kind]++] = at;
    }
}

static void model_follow(struct modeled *k, int64_t add, int64_t from, int64_t now)
{
    int64_t n = (k->has_state ? k->state : 0) + add;
    struct plan p = plan_of(n, from, now);

    if (p.fail) {
        return;
    }
    k->state = n;
    k->has_state = !p.remove;
    if (p.event != INT64_MIN) {
        model_timer(k, 0, p.event, true);
    }
    if (p.batch != INT64_MIN) {
        model_timer(k, 1, p.batch, true);
    }
    if (p.cancel != INT64_MIN) {
        model_timer(k, 0, p.cancel, false);
    }
}

/* All timers of a kind that are due, each above the one before; what is set to a time that is over
 * by then is left. */
static void model_fire(int key, int kind, int64_t upto, int64_t watermark, int64_t now)
{
    struct modeled *k = &model[key];
    int64_t last = INT64_MIN;

    for (;;) {
        int64_t next = INT64_MAX;
        for (size_t i = 0; i < k->count[kind]; i++) {
            int64_t t = k->timers[kind][i];
            next = t > last && t <= upto && t < next ? t : next;
        }
        if (next == INT64_MAX) {
            return;
        }
        last = next;
        model_timer(k, kind, next, false);
        struct plan p = plan_of((k->has_state ? k->state : 0) + 1, kind ? watermark : next, now);
        if (!p.fail) {
            (void)snprintf(lines[1][line_count[1]++], 48, "%d=%c%lld %lld", key, kind ? 'p' : 'e',
                           (long long)next, k->has_state ? (long long)k->state : -1LL);
        }
        model_follow(k, 1, kind ? watermark : next, now);
    }
}

static int by_line(const void *a, const void *b)
{
    return strcmp(a, b);
}

static struct bed *bed_random(uint32_t workers, uint32_t partitions)
{
    struct bed *b = calloc(1, sizeof *b);

    MUST(b != NULL);
    bed_init(b, workers, 0);
    b->opt.on_failure = LEVEE_DEAD_LETTER;
    levee_stream *s = levee_event_time(bed_source(b, 1), "time", NULL,
                                       &(struct levee_event_time_options){.lateness_ms = 7}, NULL);
    levee_stream *p = levee_process_by_key(s, "p", NULL, run_record, run_timer, NULL);
    bed_sink(b, levee_repartition(levee_partitions(p, partitions), 1));
    MUST(bed_open(b) == LEVEE_OK);
    MUST(rt_engine_loaded(b->engine, NULL, 0, NULL) == LEVEE_OK);
    return b;
}

static void compare(uint64_t batch, int seed)
{
    qsort(lines[0], line_count[0], sizeof lines[0][0], by_line);
    qsort(lines[1], line_count[1], sizeof lines[1][0], by_line);
    for (size_t i = 0; i < line_count[0] || i < line_count[1]; i++) {
        const char *got = i < line_count[0] ? lines[0][i] : "nothing";
        const char *want = i < line_count[1] ? lines[1][i] : "nothing";
        ck_assert_msg(strcmp(got, want) == 0, "seed %d, batch %llu: got %s, want %s", seed,
                      (unsigned long long)batch, got, want);
    }
    line_count[0] = line_count[1] = 0;
}

START_TEST(random_processes_are_the_models)
{
    static const uint32_t workers[] = {1, 2, 7}, partitions[] = {8, 1, 31};
    uint64_t rng = (uint64_t)_i * 6364136223846793005u + 1;
    struct bed *beds[3];
    int64_t front = 0, max = INT64_MIN, watermark = INT64_MIN;

    memset(model, 0, sizeof model);
    for (size_t i = 0; i < 3; i++) {
        beds[i] = bed_random(workers[i], partitions[i]);
    }
    for (uint64_t batch = 1; batch <= BATCHES; batch++) {
        int64_t now = (int64_t)batch * 1000;
        watermark = max != INT64_MIN && max - 7 > watermark ? max - 7 : watermark;
        for (int key = 0; key < KEYS; key++) {
            model_fire(key, 0, watermark, watermark, now);
            model_fire(key, 1, now, watermark == INT64_MIN ? 0 : watermark, now);
        }
        for (uint64_t n = rng_next(&rng) % 3 ? rng_next(&rng) % 14 : 0; n > 0; n--) {
            int key = (int)(rng_next(&rng) % KEYS);
            int64_t t = front - (int64_t)(rng_next(&rng) % 30),
                    add = 1 + (int64_t)(rng_next(&rng) % 9);
            char name = (char)('0' + key);
            uint8_t le[8];
            put_le64(le, (uint64_t)add);
            struct levee_record r = {slice_of(&name, 1), slice_of(le, 8), t};
            for (size_t i = 0; i < 3; i++) {
                bed_feed(beds[i], 0, 0, &r, 1);
            }
            model_follow(&model[key], add, t, now);
            max = t > max ? t : max;
            front += (int64_t)(rng_next(&rng) % 12);
        }
        for (size_t i = 0; i < 3; i++) {
            MUST(bed_run(beds[i]) == LEVEE_OK);
            ck_assert_uint_eq(beds[i]->compute.digests[0], beds[0]->compute.digests[0]);
        }
        const struct rt_records *out = &bed_output(beds[0], 0)->parts[0];
        for (size_t i = 0; i < out->count; i++) {
            (void)snprintf(lines[0][line_count[0]++], 48, "%c=%.*s", out->items[i].key.data[0],
                           (int)out->items[i].value.len, (const char *)out->items[i].value.data);
        }
        compare(batch, _i);
        for (size_t i = 0; i < 3; i++) {
            bed_end_batch(beds[i]);
        }
        uint64_t alive = 0;
        for (int key = 0; key < KEYS; key++) {
            alive += model[key].has_state || model[key].count[0] || model[key].count[1];
        }
        ck_assert_uint_eq(keys_of(beds[0]), alive);
        /* One engine lives on, one dies after every batch, one now and then. */
        for (size_t i = 1; i < 3; i++) {
            if (i == 1 || rng_next(&rng) % 4 == 0) {
                struct bed *next = bed_random(workers[(i + batch) % 3], partitions[batch % 3]);
                bed_hand_over(beds[i], next);
                beds[i] = next;
            }
        }
    }
    for (size_t i = 0; i < 3; i++) {
        bed_release(beds[i]);
        free(beds[i]);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_process");
    TCase *t = tcase_create("process");

    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, random_processes_are_the_models, 0, 40);
    suite_add_tcase(s, t);
    return suite_main(s);
}
