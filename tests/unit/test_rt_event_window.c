/*
 * event_window against a model that keeps every record and works windows out anew each time, from
 * their definition: no panes, no timers, no flags. Batch k has time 1000 k.
 */
#include "runtime/exec.h"
#include "tests/unit/test_rt_functions.h"

#define KEYS    7
#define BATCHES 40u
#define RECORDS 4000
#define LINES   4096
#define NONE    INT64_MIN

/* ---- a reducer whose accumulator is not its result, and that minds the order ---- */

struct chain {
    int64_t sum, count;
};
static int chain_create(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    struct chain *c = acc;

    (void)out;
    (void)arg;
    MUST(c->sum == 0 && c->count == 0); /* zeroed */
    *c = (struct chain){levee_i64(value), 1};
    return 0;
}
static int chain_add(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    struct chain *c = acc;

    (void)out;
    (void)arg;
    c->sum += levee_i64(value);
    c->count++;
    return 0;
}
static int chain_merge(levee_output *out, void *acc, const void *other, void *arg)
{
    struct chain *c = acc;
    const struct chain *o = other;

    (void)out;
    (void)arg;
    c->sum += o->sum;
    c->count += o->count;
    return 0;
}
static int chain_finish(levee_output *out, struct levee_slice key, const void *acc, void *arg)
{
    const struct chain *c = acc;
    struct levee_event_window_info now;

    (void)arg;
    MUST(levee_event_window_now(out, &now) && now.start_ms < now.end_ms);
    return levee_emit_i64(out, key, c->sum * 1000 + c->count);
}
static const struct levee_reducer chain = {.version = 1,
                                           .size = sizeof(struct chain),
                                           .create = chain_create,
                                           .add = chain_add,
                                           .merge = chain_merge,
                                           .finish = chain_finish};

/* ---- lines: what both sides say ---- */

struct lines {
    char text[LINES][80];
    size_t n;
};
static struct lines said, wanted, said_late, wanted_late;

static void PRINTF(2, 3) say(struct lines *l, const char *fmt, ...)
{
    va_list ap;

    MUST(l->n < LINES);
    va_start(ap, fmt);
    (void)vsnprintf(l->text[l->n++], sizeof l->text[0], fmt, ap);
    va_end(ap);
}

static int by_line(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void same_lines(struct lines *got, struct lines *want, uint64_t seed, uint64_t batch,
                       const char *what)
{
    qsort(got->text, got->n, sizeof got->text[0], by_line);
    qsort(want->text, want->n, sizeof want->text[0], by_line);
    for (size_t i = 0; i < got->n || i < want->n; i++) {
        const char *x = i < got->n ? got->text[i] : "nothing";
        const char *y = i < want->n ? want->text[i] : "nothing";
        ck_assert_msg(strcmp(x, y) == 0, "seed %llu, batch %llu, %s %zu: got %s, want %s",
                      (unsigned long long)seed, (unsigned long long)batch, what, i, x, y);
    }
    got->n = want->n = 0;
}

/* ---- the model ---- */

struct fact {
    int key;
    int64_t time_ms, value;
    bool touched;     /* by this batch */
    uint64_t changed; /* not yet part of an early firing */
};
struct model {
    struct levee_event_window o;
    int64_t lateness, watermark, before, max;
    struct fact facts[RECORDS];
    size_t n;
    int64_t early_at[KEYS];
    uint64_t late;
};
struct span_ms {
    int64_t start, end;
};

static int64_t floor_ms(int64_t t, int64_t step)
{
    int64_t q = t / step;

    return (q * step > t ? q - 1 : q) * step;
}

static int by_time(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

/* All windows that hold a record of the key, by their definition. */
static size_t windows_of(const struct model *m, int key, struct span_ms *ret, size_t cap)
{
    static int64_t times[RECORDS];
    size_t count = 0, n = 0;
    int64_t length = (int64_t)m->o.length_ms, gap = (int64_t)m->o.gap_ms;
    int64_t slide = (int64_t)(m->o.slide_ms ? m->o.slide_ms : m->o.length_ms);

    for (size_t i = 0; i < m->n; i++) {
        if (m->facts[i].key == key) {
            times[count++] = m->facts[i].time_ms;
        }
    }
    qsort(times, count, sizeof *times, by_time);
    for (size_t i = 0; i < count; i++) {
        if (gap && (i == 0 || times[i] - times[i - 1] >= gap)) {
            MUST(n < cap);
            ret[n++].start = times[i];
        }
        if (gap) {
            ret[n - 1].end = times[i] + gap;
            continue;
        }
        for (int64_t s = floor_ms(times[i], slide); s + length > times[i]; s -= slide) {
            bool there = false;
            for (size_t k = 0; k < n; k++) {
                there = there || ret[k].start == s;
            }
            MUST(n < cap);
            if (!there) {
                ret[n++] = (struct span_ms){s, s + length};
            }
        }
    }
    return n;
}

static bool in_span(const struct fact *f, int key, const struct span_ms *w)
{
    return f->key == key && f->time_ms >= w->start && f->time_ms < w->end;
}

static void model_fire(const struct model *m, int key, const struct span_ms *w,
                       enum levee_firing firing)
{
    int64_t sum = 0, count = 0;

    for (size_t i = 0; i < m->n; i++) {
        if (in_span(&m->facts[i], key, w)) {
            sum += m->facts[i].value;
            count++;
        }
    }
    sum = sum * 1000 + count; /* as chain_finish shows it */
    say(&wanted, "%d [%lld,%lld) %d: %lld", key, (long long)w->start, (long long)w->end,
        (int)firing, (long long)sum);
}

/* A record stays as long as a window that it lies in does. */
static bool over(const struct model *m, const struct fact *f)
{
    struct span_ms w[600];
    size_t n = windows_of(m, f->key, w, ARRAY_LEN(w));
    int64_t end = NONE;

    for (size_t i = 0; i < n; i++) {
        end = in_span(f, f->key, &w[i]) && w[i].end > end ? w[i].end : end;
    }
    return end + (int64_t)m->o.allowed_lateness_ms <= m->watermark;
}

static void model_forget(struct model *m)
{
    static bool gone[RECORDS];
    size_t kept = 0;

    for (size_t i = 0; i < m->n; i++) {
        gone[i] = m->watermark != NONE && over(m, &m->facts[i]);
    }
    for (size_t i = 0; i < m->n; i++) {
        if (!gone[i]) {
            m->facts[kept++] = m->facts[i];
        }
    }
    m->n = kept;
}

static bool any_in(const struct model *m, int key, const struct span_ms *w, bool changed)
{
    for (size_t i = 0; i < m->n; i++) {
        const struct fact *f = &m->facts[i];
        if (in_span(f, key, w) && (changed ? f->changed != 0 : f->touched)) {
            return true;
        }
    }
    return false;
}

/* Is a window of the key open that has changed? */
static bool any_open(const struct model *m, int key)
{
    struct span_ms w[600];
    size_t n = windows_of(m, key, w, ARRAY_LEN(w));
    bool open = false;

    for (size_t i = 0; i < n; i++) {
        open = open || (w[i].end > m->watermark && any_in(m, key, &w[i], true));
    }
    return open;
}

static void model_begin(struct model *m)
{
    m->before = m->watermark;
    if (m->max != NONE && m->max - m->lateness > m->watermark) {
        m->watermark = m->max - m->lateness;
    }
    for (int key = 0; key < KEYS; key++) {
        struct span_ms w[600];
        size_t n = windows_of(m, key, w, ARRAY_LEN(w));
        for (size_t i = 0; i < n; i++) {
            if (w[i].end > m->before && w[i].end <= m->watermark) {
                model_fire(m, key, &w[i], LEVEE_FIRED_ON_TIME);
            }
        }
    }
    model_forget(m);
    for (int key = 0; key < KEYS; key++) { /* what was to fire early has fired on time */
        m->early_at[key] = any_open(m, key) ? m->early_at[key] : NONE;
    }
    for (size_t i = 0; i < m->n; i++) {
        m->facts[i].touched = false;
    }
}

static void model_record(struct model *m, int key, int64_t t, int64_t value)
{
    int64_t slide = (int64_t)(m->o.slide_ms ? m->o.slide_ms : m->o.length_ms);
    bool touches = false;

    m->max = t > m->max ? t : m->max;
    if (!m->o.gap_ms && floor_ms(t, slide) + (int64_t)m->o.length_ms <= t) {
        return; /* between two windows */
    }
    struct fact f = {key, t, value, true, 1};
    for (size_t i = 0; i < m->n; i++) {
        const struct fact *x = &m->facts[i];
        int64_t apart = x->time_ms > t ? x->time_ms - t : t - x->time_ms;
        touches = touches || (x->key == key && m->o.gap_ms && apart < (int64_t)m->o.gap_ms);
    }
    MUST(m->n < RECORDS);
    m->facts[m->n++] = f;
    if (!touches && m->watermark != NONE && over(m, &f)) {
        m->n--;
        m->late++;
        say(&wanted_late, "%d %lld %lld", key, (long long)t, (long long)value);
    }
}

static void model_end(struct model *m, int64_t now)
{
    int64_t allowed = (int64_t)m->o.allowed_lateness_ms, early = (int64_t)m->o.early_ms;

    for (int key = 0; key < KEYS; key++) {
        struct span_ms w[600];
        size_t n = windows_of(m, key, w, ARRAY_LEN(w));
        for (size_t i = 0; i < n; i++) {
            if (m->watermark != NONE && w[i].end <= m->watermark &&
                w[i].end + allowed > m->watermark && any_in(m, key, &w[i], false)) {
                model_fire(m, key, &w[i], LEVEE_FIRED_LATE);
            }
        }
        if (!early || !any_open(m, key)) {
            m->early_at[key] = NONE;
            continue;
        }
        if (m->early_at[key] == NONE) {
            m->early_at[key] = floor_ms(now + early - 1, early);
        }
        if (m->early_at[key] > now) {
            continue;
        }
        for (size_t i = 0; i < n; i++) {
            if (w[i].end > m->watermark && any_in(m, key, &w[i], true)) {
                model_fire(m, key, &w[i], LEVEE_FIRED_EARLY);
            }
        }
        for (size_t i = 0; i < m->n; i++) {
            m->facts[i].changed = m->facts[i].key == key ? 0 : m->facts[i].changed;
        }
        m->early_at[key] = NONE;
    }
}

/* ---- the engine ---- */

static struct bed *bed_windows(const struct levee_event_window *o, uint64_t lateness,
                               uint32_t workers, uint32_t partitions)
{
    struct bed *b = calloc(1, sizeof *b);
    struct levee_event_window own = *o;

    MUST(b != NULL);
    own.partitions = partitions;
    own.bounds = true;
    own.late = LEVEE_LATE_SIDE;
    bed_init(b, workers, 0);
    levee_stream *s =
        levee_event_time(bed_source(b, 2), "times", NULL,
                         &(struct levee_event_time_options){.lateness_ms = lateness}, NULL);
    levee_stream *w = levee_event_window(s, "windows", &chain, &own);
    bed_sink(b, levee_repartition(w, 1)); /* in the order of key groups */
    bed_sink(b, levee_repartition(levee_late(w), 1));
    if (bed_open(b) != LEVEE_OK) {
        ck_abort_msg("%s", b->err.what);
    }
    MUST(rt_engine_loaded(b->engine, NULL, 0, NULL) == LEVEE_OK);
    return b;
}

static void hear(const struct bed *b)
{
    const struct rt_records *r = &bed_output(b, 0)->parts[0], *late = &bed_output(b, 1)->parts[0];

    for (size_t i = 0; i < r->count; i++) {
        struct levee_event_window_info w;
        MUST(levee_event_window_of(r->items[i].value, &w));
        MUST(r->items[i].time_ms == w.end_ms - 1 && r->items[i].key.len == 1);
        say(&said, "%c [%lld,%lld) %d: %lld", r->items[i].key.data[0], (long long)w.start_ms,
            (long long)w.end_ms, (int)w.firing, (long long)levee_i64(w.value));
    }
    for (size_t i = 0; i < late->count; i++) {
        say(&said_late, "%c %lld %lld", late->items[i].key.data[0],
            (long long)late->items[i].time_ms, (long long)levee_i64(late->items[i].value));
    }
}

static struct bed *reborn(struct bed *from, const struct levee_event_window *o, uint64_t lateness,
                          uint32_t workers, uint32_t partitions)
{
    struct bed *b = bed_windows(o, lateness, workers, partitions);

    bed_hand_over(from, b);
    return b;
}

static struct levee_event_window random_options(uint64_t *rng, uint64_t *ret_lateness)
{
    static const uint64_t lengths[] = {50, 100, 100, 300, 7}, slides[] = {0, 25, 30, 300, 60};
    struct levee_event_window o = {0};

    if (rng_next(rng) % 2) {
        o.gap_ms = 5 + rng_next(rng) % 60;
    } else {
        o.length_ms = lengths[rng_next(rng) % ARRAY_LEN(lengths)];
        o.slide_ms = slides[rng_next(rng) % ARRAY_LEN(slides)];
    }
    o.allowed_lateness_ms = rng_next(rng) % 2 ? rng_next(rng) % 200 : 0;
    o.early_ms = rng_next(rng) % 2 ? 0 : (uint32_t)(1 + rng_next(rng) % 4) * 700;
    *ret_lateness = rng_next(rng) % 3 ? rng_next(rng) % 120 : 0;
    return o;
}

START_TEST(random_windows_are_the_models)
{
    static struct model m;
    uint64_t rng = (uint64_t)_i * 7919 + 3, seed = (uint64_t)_i;
    struct levee_event_window o = random_options(&rng, &(uint64_t){0});
    uint64_t lateness = rng_next(&rng) % 3 ? rng_next(&rng) % 120 : 0;
    struct bed *beds[3] = {bed_windows(&o, lateness, 1, 8), bed_windows(&o, lateness, 2, 3),
                           bed_windows(&o, lateness, 7, 128)};
    int64_t front = (int64_t)(rng_next(&rng) % 2000) - 1000;

    m = (struct model){
        .o = o, .lateness = (int64_t)lateness, .watermark = NONE, .before = NONE, .max = NONE};
    for (int k = 0; k < KEYS; k++) {
        m.early_at[k] = NONE;
    }
    for (uint64_t batch = 1; batch <= BATCHES; batch++) {
        model_begin(&m);
        for (uint16_t p = 0; p < 2; p++) {
            for (uint64_t n = rng_next(&rng) % 4 ? rng_next(&rng) % 12 : 0; n > 0; n--) {
                int key = (int)(rng_next(&rng) % KEYS);
                int64_t jitter = (int64_t)(rng_next(&rng) % (rng_next(&rng) % 5 ? 40 : 400));
                int64_t t = front - jitter, value = (int64_t)(rng_next(&rng) % 1000);
                char name = (char)('0' + key);
                uint8_t le[8];
                put_le64(le, (uint64_t)value);
                struct levee_record r = {slice_of(&name, 1), slice_of(le, 8), t};
                for (size_t i = 0; i < ARRAY_LEN(beds); i++) {
                    bed_feed(beds[i], 0, p, &r, 1);
                }
                model_record(&m, key, t, value);
                front += (int64_t)(rng_next(&rng) % 12);
            }
        }
        front += rng_next(&rng) % 10 ? 0 : 500;
        model_end(&m, (int64_t)batch * 1000);
        for (size_t i = 0; i < ARRAY_LEN(beds); i++) {
            if (bed_run(beds[i]) != LEVEE_OK) {
                ck_abort_msg("%s", beds[i]->compute.err.what);
            }
            for (size_t sink = 0; sink < 2 && i > 0; sink++) {
                ck_assert_uint_eq(beds[i]->compute.digests[sink], beds[0]->compute.digests[sink]);
            }
        }
        hear(beds[0]);
        same_lines(&said, &wanted, seed, batch, "window");
        same_lines(&said_late, &wanted_late, seed, batch, "late record");
        for (size_t i = 0; i < ARRAY_LEN(beds); i++) {
            bed_end_batch(beds[i]);
            ck_assert_uint_eq(rt_engine_late(beds[i]->engine), m.late);
        }
        if (rng_next(&rng) % 6 == 0) { /* removed entries become spare places */
            bed_copy_delta(beds[0], NULL);
        }
    }
    uint64_t keys, bytes;
    rt_engine_state_size(beds[0]->engine, &keys, &bytes);
    uint64_t want_keys = 0;
    for (int k = 0; k < KEYS; k++) {
        bool there = false;
        for (size_t i = 0; i < m.n; i++) {
            there = there || m.facts[i].key == k;
        }
        want_keys += there;
    }
    ck_assert_uint_eq(keys, want_keys); /* what is over is gone */
    for (size_t i = 0; i < ARRAY_LEN(beds); i++) {
        bed_release(beds[i]);
        free(beds[i]);
    }
}
END_TEST

/* A life ends after every batch, and the next one has other workers and partitions. */
START_TEST(a_restart_after_every_batch_changes_nothing)
{
    static const uint32_t workers[] = {1, 2, 7}, partitions[] = {8, 1, 31};
    uint64_t rng = (uint64_t)_i * 104729 + 11, lateness;
    struct levee_event_window o = random_options(&rng, &lateness);
    struct bed *straight = bed_windows(&o, lateness, 2, 8);
    struct bed *lives = bed_windows(&o, lateness, 1, 4);
    int64_t front = 0;

    for (uint64_t batch = 1; batch <= 25; batch++) {
        for (uint64_t n = rng_next(&rng) % 10; n > 0; n--) {
            char name = (char)('0' + rng_next(&rng) % KEYS);
            uint8_t le[8] = {(uint8_t)rng_next(&rng)};
            struct levee_record r = {slice_of(&name, 1), slice_of(le, 8),
                                     front - (int64_t)(rng_next(&rng) % 60)};
            bed_feed(straight, 0, 0, &r, 1);
            bed_feed(lives, 0, 0, &r, 1);
            front += (int64_t)(rng_next(&rng) % 15);
        }
        MUST(bed_run(straight) == LEVEE_OK && bed_run(lives) == LEVEE_OK);
        for (size_t sink = 0; sink < 2; sink++) {
            ck_assert_uint_eq(lives->compute.digests[sink], straight->compute.digests[sink]);
        }
        bed_end_batch(straight);
        bed_end_batch(lives);
        for (int64_t ahead = 0; ahead < 5000; ahead += 250) {
            ck_assert_int_eq(
                rt_engine_wants_empty_batch(lives->engine, (int64_t)batch * 1000 + ahead),
                rt_engine_wants_empty_batch(straight->engine, (int64_t)batch * 1000 + ahead));
        }
        bed_copy_delta(straight, NULL);
        lives = reborn(lives, &o, lateness, workers[batch % 3], partitions[batch % 3]);
        ck_assert_uint_eq(rt_engine_state_digest(lives->engine),
                          rt_engine_state_digest(straight->engine));
    }
    bed_release(straight);
    bed_release(lives);
    free(straight);
    free(lives);
}
END_TEST

/* Allowed lateness may change between starts: what has fired does not fire again on its way out. */
START_TEST(a_shorter_allowed_lateness_fires_nothing_again)
{
    struct levee_event_window o = {.length_ms = 100, .allowed_lateness_ms = 200};
    struct bed *b = bed_windows(&o, 0, 2, 8);
    static const int64_t times[] = {10, 150, 151, 160, 161, 260, 261};
    static const char keys[] = {'0', '1', '1', '0', '1', '1', '1'};

    for (size_t i = 0; i < ARRAY_LEN(times); i++) {
        uint8_t le[8] = {7};
        struct levee_record r = {slice_of(&keys[i], 1), slice_of(le, 8), times[i]};
        if (i == 3) {
            o.allowed_lateness_ms = 0;
            b = reborn(b, &o, 0, 1, 4);
        }
        bed_feed(b, 0, 0, &r, 1);
        MUST(bed_run(b) == LEVEE_OK);
        hear(b);
        bed_end_batch(b);
    }
    say(&wanted, "0 [0,100) 0: 7001");
    say(&wanted, "0 [100,200) 0: 7001");
    say(&wanted, "1 [100,200) 0: 21003");
    same_lines(&said, &wanted, 0, b->batch, "window");
    ck_assert_uint_eq(said_late.n, 0);
    bed_release(b);
    free(b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_event_window");
    TCase *t = tcase_create("windows");

    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, random_windows_are_the_models, 0, 60);
    tcase_add_loop_test(t, a_restart_after_every_batch_changes_nothing, 0, 20);
    tcase_add_test(t, a_shorter_allowed_lateness_fires_nothing_again);
    suite_add_tcase(s, t);
    return suite_main(s);
}
