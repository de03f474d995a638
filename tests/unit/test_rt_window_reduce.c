/*
 * reduce_by_key_and_window against a model that keeps every value and folds each window anew from
 * its definition: no rings, no stacks, no running results. The reducer minds the order, so a merge
 * in the wrong order or of the wrong parts shows. Batch k has time 1000 k.
 *
 * Restarts stand for process death between two batches (faults.md 6): tables travel as a chain of
 * checkpoints carries them.
 */
#include "runtime/exec.h"
#include "tests/unit/test_rt_functions.h"

#define KEYS    9u
#define BATCHES 90u
#define VALUES  24u /* of one key in one batch, at most */

/* ---- a reducer that minds the order: a polynomial modulo 2^64 ---- */

struct poly {
    uint64_t sum, power; /* of BASE: the number of values */
};
#define BASE 6364136223846793005u /* odd, so that powers have inverses */

static _Atomic uint64_t calls, fail_each; /* every fail_each-th call fails; 0: none */

static int moody(void)
{
    uint64_t n = atomic_fetch_add(&calls, 1) + 1, each = atomic_load(&fail_each);

    return each && n % each == 0 ? -7 : 0;
}
static int poly_create(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    struct poly *p = acc;

    (void)out;
    (void)arg;
    MUST(p->sum == 0 && p->power == 0); /* zeroed */
    *p = (struct poly){(uint64_t)levee_i64(value), BASE};
    return moody();
}
static int poly_add(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    struct poly *p = acc;

    (void)out;
    (void)arg;
    p->sum = p->sum * BASE + (uint64_t)levee_i64(value);
    p->power *= BASE;
    return moody();
}
static int poly_merge(levee_output *out, void *acc, const void *other, void *arg)
{
    struct poly *p = acc;
    const struct poly *o = other;

    (void)out;
    (void)arg;
    MUST((uintptr_t)acc % 8 == 0 && (uintptr_t)other % 8 == 0); /* as promised */
    p->sum = p->sum * o->power + o->sum;
    p->power *= o->power;
    return moody(); /* after the damage is done */
}
static uint64_t inverse_of(uint64_t odd)
{
    uint64_t x = odd; /* Newton: each step doubles the bits that are right */

    for (int i = 0; i < 6; i++) {
        x *= 2 - odd * x;
    }
    return x;
}
/* The oldest values leave. */
static int poly_remove(levee_output *out, void *acc, const void *other, void *arg)
{
    struct poly *p = acc;
    const struct poly *o = other;

    (void)out;
    (void)arg;
    p->power *= inverse_of(o->power);
    p->sum -= o->sum * p->power;
    return moody();
}
static int poly_finish(levee_output *out, struct levee_slice key, const void *acc, void *arg)
{
    (void)arg;
    return moody() ? -7 : levee_emit_i64(out, key, (int64_t)((const struct poly *)acc)->sum);
}
static const struct levee_reducer poly = {.version = 1,
                                          .size = sizeof(struct poly),
                                          .create = poly_create,
                                          .add = poly_add,
                                          .merge = poly_merge,
                                          .remove = poly_remove,
                                          .finish = poly_finish};

static bool kept(uint64_t result, bool zero)
{
    return result ? result % 4 != 1 : zero;
}
static int fn_kept(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)out;
    return kept((uint64_t)levee_i64(in->value), arg != NULL);
}

/* ---- the model ---- */

struct shape {
    uint32_t length, slide; /* in batches */
    bool inverse, filter, zero;
    uint32_t rare; /* a key comes in one of so many batches */
};
struct model {
    struct shape shape;
    uint64_t values[BATCHES + 1][KEYS][VALUES];
    size_t counts[BATCHES + 1][KEYS];
    bool shown[KEYS]; /* in the last output */
};

static void model_slide(struct model *m, uint32_t now, bool ret_there[KEYS], uint64_t ret[KEYS])
{
    uint32_t from = now > m->shape.length ? now - m->shape.length + 1 : 1;

    for (uint32_t k = 0; k < KEYS; k++) {
        size_t n = 0;
        ret[k] = 0;
        for (uint32_t b = from; b <= now; b++) {
            for (size_t i = 0; i < m->counts[b][k]; i++, n++) {
                ret[k] = ret[k] * BASE + m->values[b][k][i];
            }
        }
        ret_there[k] = (n > 0 || (m->shape.inverse && m->shown[k])) &&
                       (!m->shape.filter || kept(ret[k], m->shape.zero));
        m->shown[k] = ret_there[k];
    }
}

/* ---- the engine ---- */

static struct bed *bed_windowed(const struct shape *s, uint32_t workers, uint32_t partitions)
{
    struct bed *b = calloc(1, sizeof *b);
    struct levee_window w = {.length_ms = s->length * 1000,
                             .slide_ms = s->slide * 1000,
                             .inverse = s->inverse,
                             .filter = s->filter ? fn_kept : NULL,
                             .arg = s->zero ? b : NULL,
                             .partitions = partitions};

    MUST(b != NULL);
    bed_init(b, workers, 0);
    b->opt.retries = 3;
    levee_stream *out = levee_reduce_by_key_and_window(bed_source(b, 2), "window", &poly, &w);
    bed_sink(b, levee_repartition(out, 1)); /* in the order of key groups */
    if (bed_open(b) != LEVEE_OK) {
        ck_abort_msg("%s", b->err.what);
    }
    MUST(rt_engine_loaded(b->engine, NULL, 0, NULL) == LEVEE_OK);
    return b;
}

static void feed(struct bed *b, uint16_t partition, uint32_t key, uint64_t value)
{
    char name = (char)('a' + key);
    uint8_t le[8];

    put_le64(le, value);
    struct levee_record r = {slice_of(&name, 1), slice_of(le, 8), 0};
    bed_feed(b, 0, partition, &r, 1);
}

static struct bed *reborn(struct bed *from, const struct shape *s, uint32_t workers,
                          uint32_t partitions)
{
    struct bed *b = bed_windowed(s, workers, partitions);

    bed_hand_over(from, b);
    return b;
}

static void same(const struct bed *b, struct model *m, int seed)
{
    const struct rt_records *got = &bed_output(b, 0)->parts[0];
    uint64_t want[KEYS];
    bool there[KEYS];
    size_t n = 0;

    if (b->batch % m->shape.slide) {
        ck_assert_uint_eq(got->count, 0);
        return;
    }
    model_slide(m, (uint32_t)b->batch, there, want);
    for (size_t i = 0; i < got->count; i++) {
        uint32_t k = (uint32_t)(got->items[i].key.data[0] - 'a');
        uint64_t v = (uint64_t)levee_i64(got->items[i].value);
        ck_assert_msg(k < KEYS && there[k] && v == want[k],
                      "seed %d, batch %llu, key %u: got %llx, want %s %llx", seed,
                      (unsigned long long)b->batch, k, (unsigned long long)v,
                      there[k] ? "" : "nothing, of", (unsigned long long)want[k]);
    }
    for (uint32_t k = 0; k < KEYS; k++) {
        n += there[k];
    }
    ck_assert_msg(got->count == n, "seed %d, batch %llu: got %zu keys, want %zu", seed,
                  (unsigned long long)b->batch, got->count, n);
}

static struct shape shape_of(int i)
{
    static const uint32_t lengths[] = {1, 2, 3, 5, 8, 13, 21, 40}, slides[] = {1, 1, 2, 3, 9};
    uint64_t rng = (uint64_t)i * 7919 + 5;

    return (struct shape){.length = lengths[rng_next(&rng) % ARRAY_LEN(lengths)],
                          .slide = slides[rng_next(&rng) % ARRAY_LEN(slides)],
                          .inverse = i % 2,
                          .filter = rng_next(&rng) % 2,
                          .zero = rng_next(&rng) % 2,
                          .rare = (uint32_t[]){1, 2, 6, 25}[rng_next(&rng) % 4]};
}

/* Key k comes in some phases only, and more rarely than key k - 1. */
static void feed_batch(struct bed *const beds[], size_t n, struct model *m, uint32_t batch,
                       uint64_t *rng)
{
    for (uint16_t p = 0; p < 2; p++) {
        for (uint32_t k = 0; k < KEYS; k++) {
            bool away = batch / 20 % 3 == k % 3 && k % 2;
            uint64_t some = away || rng_next(rng) % (m->shape.rare + k) ? 0 : rng_next(rng) % 4;
            for (; some > 0; some--) {
                uint64_t value = rng_next(rng);
                m->values[batch][k][m->counts[batch][k]++] = value;
                for (size_t i = 0; i < n; i++) {
                    feed(beds[i], p, k, value);
                }
            }
        }
    }
}

/* Nobody is kept who is neither inside nor shown. */
static uint64_t keys_left(const struct model *m, uint32_t now)
{
    uint64_t n = 0;

    for (uint32_t k = 0; k < KEYS; k++) {
        bool inside = false;
        for (uint32_t b = 0; b < m->shape.length && b < now; b++) {
            inside = inside || m->counts[now - b][k];
        }
        n += inside || m->shown[k];
    }
    return n;
}

/* One bed lives on; another one dies after some batches, or after each; a third has other workers.
 * Calls fail now and then, anywhere, and are tried again. */
START_TEST(random_windows_are_the_models)
{
    static const uint32_t workers[] = {1, 2, 7}, partitions[] = {8, 1, 31};
    static struct model m;
    struct shape s = shape_of(_i);
    uint64_t rng = (uint64_t)_i + 1;
    struct bed *beds[] = {bed_windowed(&s, 1, 8), bed_windowed(&s, 2, 3), bed_windowed(&s, 7, 128)};

    m = (struct model){.shape = s};
    atomic_store(&fail_each, _i % 3 ? 53 + (uint64_t)_i % 7 : 0);
    for (uint32_t batch = 1; batch <= BATCHES; batch++) {
        feed_batch(beds, ARRAY_LEN(beds), &m, batch, &rng);
        for (size_t i = 0; i < ARRAY_LEN(beds); i++) {
            if (bed_run(beds[i]) != LEVEE_OK) {
                ck_abort_msg("%s", beds[i]->compute.err.what);
            }
            ck_assert_uint_eq(beds[i]->compute.digests[0], beds[0]->compute.digests[0]);
        }
        same(beds[0], &m, _i);
        for (size_t i = 0; i < ARRAY_LEN(beds); i++) {
            bed_end_batch(beds[i]);
        }
        if (batch % s.slide == 0) {
            uint64_t keys, bytes;
            rt_engine_state_size(beds[0]->engine, &keys, &bytes);
            ck_assert_uint_eq(keys, keys_left(&m, batch));
        }
        if (_i % 5 == 0 || rng_next(&rng) % 8 == 0) {
            bed_copy_delta(beds[0], NULL);
            beds[1] = reborn(beds[1], &s, workers[batch % 3], partitions[batch % 3]);
            ck_assert_uint_eq(rt_engine_state_digest(beds[1]->engine),
                              rt_engine_state_digest(beds[0]->engine));
        }
    }
    ck_assert(!atomic_load(&fail_each) || atomic_load(&calls) > atomic_load(&fail_each));
    for (size_t i = 0; i < ARRAY_LEN(beds); i++) {
        bed_release(beds[i]);
        free(beds[i]);
    }
}
END_TEST

/* ---- what it costs, counted in calls of the reducer ---- */

#define MANY 200u

struct cost {
    uint64_t all, most; /* calls: of `batches` batches, and of the one with the most */
};

/* Every key in every batch, past the first two windows. */
static struct cost cost_of(const struct shape *s, uint32_t batches)
{
    struct bed *b = bed_windowed(s, 1, 8);
    struct cost c = {0};

    for (uint32_t batch = 1; batch <= 2 * s->length + batches; batch++) {
        struct levee_record r[MANY];
        uint8_t bytes[MANY][8];
        for (uint32_t k = 0; k < MANY; k++) {
            put_le64(bytes[k], k);
            r[k] = (struct levee_record){slice_of(bytes[k], 8), slice_of(bytes[k], 8), 0};
        }
        bed_feed(b, 0, 0, r, MANY);
        uint64_t before = atomic_load(&calls);
        MUST(bed_run(b) == LEVEE_OK);
        uint64_t n = atomic_load(&calls) - before;
        ck_assert_uint_eq(bed_output(b, 0)->parts[0].count, MANY);
        bed_end_batch(b);
        if (batch > 2 * s->length) {
            c.all += n;
            c.most = n > c.most ? n : c.most;
        }
    }
    bed_release(b);
    free(b);
    return c;
}

START_TEST(a_slide_costs_what_changes_not_what_is_in_the_window)
{
    struct shape brief = {.length = 5, .slide = 1, .inverse = _i}, wide = brief;

    wide.length = 500;
    struct cost a = cost_of(&brief, 1000), b = cost_of(&wide, 1000);
    /* Per key and batch: create and finish; with inverse one merge and one remove; without, a merge
     * into running, one of the result, and a turn's. */
    ck_assert_uint_le(a.all, (uint64_t)(_i ? 4 : 5) * MANY * 1000);
    ck_assert_uint_le(b.all, (uint64_t)(_i ? 4 : 5) * MANY * 1000);
    /* Turns do not come together: MANY would cost MANY * 500 calls in one batch. */
    ck_assert_uint_le(b.most, (uint64_t)5 * MANY + 8 * 500);
}
END_TEST

/* What a checkpoint has to write: keys to which nothing happened are not in it. */
START_TEST(only_what_changed_is_dirty)
{
    struct shape s = {.length = 50, .slide = 1, .inverse = _i};
    struct bed *b = bed_windowed(&s, 1, 8);
    struct ckpt_slices *slices;
    size_t n;

    for (uint32_t batch = 1; batch <= 60; batch++) {
        for (uint32_t k = 0; batch == 1 && k < KEYS; k++) {
            feed(b, 0, k, k + 1);
        }
        feed(b, 0, 0, batch);
        MUST(bed_run(b) == LEVEE_OK);
        bed_end_batch(b);
        MUST(rt_engine_gather(b->engine, &slices, &n, NULL) == LEVEE_OK);
        /* In batch 51 the first values leave; without inverse a key turns once before. */
        if (_i && batch != 51) {
            ck_assert_uint_eq(slices[0].entries, batch == 1 ? KEYS : 1);
        } else {
            ck_assert_uint_le(slices[0].entries, KEYS);
        }
        if (batch > 51) {
            ck_assert_uint_eq(slices[0].entries, 1);
        }
        rt_engine_free_slices(slices, n);
    }
    bed_release(b);
    free(b);
}
END_TEST

/* A key that came often and comes rarely gives its room back. */
START_TEST(a_ring_gives_its_room_back)
{
    struct shape s = {.length = 64, .slide = 1, .inverse = _i};
    struct bed *b = bed_windowed(&s, 1, 8);
    uint64_t keys, few = 0, many = 0, bytes = 0;

    for (uint32_t batch = 1; batch <= 200; batch++) {
        if (batch <= 64 || batch % 32 == 0) {
            feed(b, 0, 0, batch);
        }
        MUST(bed_run(b) == LEVEE_OK);
        bed_end_batch(b);
        bed_copy_delta(b, NULL);
        rt_engine_state_size(b->engine, &keys, &bytes);
        few = batch == 1 ? bytes : few;
        many = batch == 64 ? bytes : many;
    }
    ck_assert_uint_ge(many, few + (uint64_t)63 * 16);
    ck_assert_uint_le(bytes, few + (uint64_t)8 * 24 + 64); /* at most 8 slots, in steps of 64 */
    bed_release(b);
    free(b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_window_reduce");
    TCase *t = tcase_create("windows");

    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, random_windows_are_the_models, 0, 90);
    tcase_add_loop_test(t, a_slide_costs_what_changes_not_what_is_in_the_window, 0, 2);
    tcase_add_loop_test(t, only_what_changed_is_dirty, 0, 2);
    tcase_add_loop_test(t, a_ring_gives_its_room_back, 0, 2);
    suite_add_tcase(s, t);
    return suite_main(s);
}
