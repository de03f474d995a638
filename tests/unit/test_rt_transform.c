/*
 * transform and the operations on data sets. Those that streams have too are compared with them,
 * record by record; the others with what they should give. (tests/unit/test_rt_model.c has
 * transforms in graphs, against a model.)
 */
#include "tests/unit/test_rt_functions.h"

static char shown[1 << 16];

/* ---- the same operation on a stream and on a batch ---- */

typedef levee_stream *(*stream_op)(levee_stream *a, levee_stream *b);
typedef const levee_batch *(*batch_op)(const levee_batch *a, const levee_batch *b);

static levee_stream *stream_map(levee_stream *a, levee_stream *b)
{
    (void)b;
    return levee_map(a, fn_swap, NULL);
}
static const levee_batch *batch_map(const levee_batch *a, const levee_batch *b)
{
    (void)b;
    return levee_batch_map(a, fn_swap, NULL);
}
static levee_stream *stream_flat_map(levee_stream *a, levee_stream *b)
{
    (void)b;
    return levee_flat_map(a, fn_words, NULL);
}
static const levee_batch *batch_flat_map(const levee_batch *a, const levee_batch *b)
{
    (void)b;
    return levee_batch_flat_map(a, fn_words, NULL);
}
static levee_stream *stream_filter(levee_stream *a, levee_stream *b)
{
    (void)b;
    return levee_filter(a, fn_odd, NULL);
}
static const levee_batch *batch_filter(const levee_batch *a, const levee_batch *b)
{
    (void)b;
    return levee_batch_filter(a, fn_odd, NULL);
}
static levee_stream *stream_map_values(levee_stream *a, levee_stream *b)
{
    (void)b;
    return levee_map_values(a, fn_length, NULL);
}
static const levee_batch *batch_map_values(const levee_batch *a, const levee_batch *b)
{
    (void)b;
    return levee_batch_map_values(a, fn_length, NULL);
}
static levee_stream *stream_union(levee_stream *a, levee_stream *b)
{
    return levee_union(((levee_stream *[]){a, b, a}), 3);
}
static const levee_batch *batch_union(const levee_batch *a, const levee_batch *b)
{
    return levee_batch_union((const levee_batch *[]){a, b, a}, 3);
}
static levee_stream *stream_sum(levee_stream *a, levee_stream *b)
{
    (void)b;
    return levee_reduce_by_key(levee_map_values(a, fn_length, NULL), &levee_sum_i64);
}
static const levee_batch *batch_sum(const levee_batch *a, const levee_batch *b)
{
    (void)b;
    return levee_batch_reduce_by_key(levee_batch_map_values(a, fn_length, NULL), &levee_sum_i64);
}
static levee_stream *stream_span(levee_stream *a, levee_stream *b)
{
    (void)b;
    return levee_reduce_by_key(a, &span);
}
static const levee_batch *batch_span(const levee_batch *a, const levee_batch *b)
{
    (void)b;
    return levee_batch_reduce_by_key(a, &span);
}
static levee_stream *stream_concat(levee_stream *a, levee_stream *b)
{
    (void)b;
    return levee_reduce_by_key(a, &levee_concat);
}
static const levee_batch *batch_concat(const levee_batch *a, const levee_batch *b)
{
    (void)b;
    return levee_batch_reduce_by_key(a, &levee_concat);
}
static levee_stream *stream_group(levee_stream *a, levee_stream *b)
{
    (void)b;
    return levee_group_by_key(a);
}
static const levee_batch *batch_group(const levee_batch *a, const levee_batch *b)
{
    (void)b;
    return levee_batch_group_by_key(a);
}
static levee_stream *stream_cogroup(levee_stream *a, levee_stream *b)
{
    return levee_cogroup(a, b);
}
static const levee_batch *batch_cogroup(const levee_batch *a, const levee_batch *b)
{
    return levee_batch_cogroup(a, b);
}
static levee_stream *stream_join(levee_stream *a, levee_stream *b)
{
    return levee_join(a, b, LEVEE_INNER);
}
static const levee_batch *batch_join(const levee_batch *a, const levee_batch *b)
{
    return levee_batch_join(a, b, LEVEE_INNER);
}
static levee_stream *stream_outer(levee_stream *a, levee_stream *b)
{
    return levee_join(levee_filter(a, fn_odd, NULL), b, LEVEE_FULL_OUTER);
}
static const levee_batch *batch_outer(const levee_batch *a, const levee_batch *b)
{
    return levee_batch_join(levee_batch_filter(a, fn_odd, NULL), b, LEVEE_FULL_OUTER);
}

static const struct twin {
    stream_op stream;
    batch_op batch;
} twins[] = {{stream_map, batch_map},       {stream_flat_map, batch_flat_map},
             {stream_filter, batch_filter}, {stream_map_values, batch_map_values},
             {stream_union, batch_union},   {stream_sum, batch_sum},
             {stream_span, batch_span},     {stream_concat, batch_concat},
             {stream_group, batch_group},   {stream_cogroup, batch_cogroup},
             {stream_join, batch_join},     {stream_outer, batch_outer}};

static int apply_twin(levee_output *out, const levee_batch *const *in, size_t n,
                      const levee_batch **ret, void *arg)
{
    const struct twin *t = arg;

    (void)out;
    MUST(n == 2);
    *ret = t->batch(in[0], in[1]);
    return 0;
}

static void feed_words(struct bed *b, size_t source, uint16_t partitions, uint64_t *rng, size_t n)
{
    static const char *const words[] = {"a", "of", "the", "stone", "parliament", "a longer word"};

    for (size_t i = 0; i < n; i++) {
        char text[64];
        const char *key = words[rng_next(rng) % ARRAY_LEN(words)];
        int len = snprintf(text, sizeof text, "%s %s %u", words[rng_next(rng) % ARRAY_LEN(words)],
                           words[rng_next(rng) % ARRAY_LEN(words)], (unsigned)i);
        struct levee_record r = {slice_str(key), slice_of(text, (size_t)len), (int64_t)i};
        r.key = rng_next(rng) % 9 ? r.key : slice_of(NULL, 0);
        r.value = rng_next(rng) % 9 ? r.value : slice_of(NULL, 0);
        bed_feed(b, source, (uint16_t)(rng_next(rng) % partitions), &r, 1);
    }
}

START_TEST(an_operation_is_the_same_on_a_batch)
{
    struct twin twin = twins[_i];

    for (uint32_t workers = 1; workers <= 7; workers += workers == 1 ? 1 : 5) {
        struct bed b;
        uint64_t rng = (uint64_t)_i + 3;
        bed_init(&b, workers, 0);
        b.graph->default_partitions = workers == 1 ? 8 : workers == 2 ? 3 : 200;
        levee_stream *both[2] = {bed_source(&b, 3), bed_source(&b, 2)};
        levee_stream *plain = twin.stream(both[0], both[1]);
        levee_stream *t =
            levee_partitions(levee_transform(both, 2, apply_twin, &twin), plain->partitions);
        size_t want = bed_sink(&b, plain), got = bed_sink(&b, t);
        MUST(bed_open(&b) == LEVEE_OK);
        for (size_t size = 0; size < 900; size = size * 5 + 10) {
            feed_words(&b, 0, 3, &rng, size);
            feed_words(&b, 1, 2, &rng, size / 2);
            MUST(bed_run(&b) == LEVEE_OK);
            const struct rt_dataset *w = bed_output(&b, want), *g = bed_output(&b, got);
            MUST(b.compute.output_records[want] > 0 || size == 0);
            ck_assert_uint_eq(b.compute.digests[got], b.compute.digests[want]);
            ck_assert_uint_eq(g->partitions, w->partitions);
            for (uint32_t p = 0; p < w->partitions; p++) {
                MUST(g->parts[p].count == w->parts[p].count);
            }
            bed_end_batch(&b);
        }
        bed_release(&b);
    }
}
END_TEST

/* ---- operations of batches alone ---- */

static int sorted(levee_output *out, const levee_batch *const *in, size_t n,
                  const levee_batch **ret, void *arg)
{
    (void)out;
    (void)n;
    *ret = levee_batch_sort_by_key(in[0], *(levee_compare_fn *)arg, NULL);
    return 0;
}

static int backwards(struct levee_slice a, struct levee_slice b, void *arg)
{
    return levee_compare_bytes(b, a, arg);
}

START_TEST(sorting_is_stable_and_cut_evenly)
{
    static const char *const in[2][6] = {{"c1", "a1", "b1", "b2", "a2", "a3"}, {"b3", "c2", "a4"}};
    static const char *const want[] = {"a=1 a=2 a=3 a=4|b=1 b=2 b=3 c=1 c=2",
                                       "c=1 c=2 b=1 b=2|b=3 a=1 a=2 a=3 a=4"};
    levee_compare_fn compare = _i ? backwards : NULL;
    struct bed b;

    bed_init(&b, 2, 0);
    levee_stream *s = bed_source(&b, 2);
    size_t out = bed_sink(&b, levee_transform(&s, 1, sorted, &compare));
    MUST(bed_open(&b) == LEVEE_OK);
    for (uint16_t p = 0; p < 2; p++) {
        for (size_t i = 0; i < 6 && in[p][i]; i++) {
            struct levee_record r = {slice_of(in[p][i], 1), slice_of(in[p][i] + 1, 1), 0};
            bed_feed(&b, 0, p, &r, 1);
        }
    }
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show(&b, out, shown, sizeof shown), want[_i]);
    bed_end_batch(&b);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show(&b, out, shown, sizeof shown), "|");
    bed_release(&b);
}
END_TEST

START_TEST(sorting_any_number_of_numbers)
{
    levee_compare_fn compare = levee_compare_i64;
    struct bed b;
    uint64_t rng = 11;

    bed_init(&b, 1, 0);
    levee_stream *s = bed_source(&b, 1);
    size_t out = bed_sink(&b, levee_transform(&s, 1, sorted, &compare));
    MUST(bed_open(&b) == LEVEE_OK);
    for (size_t n = 0; n < 600; n += n < 20 ? 1 : 83) {
        int64_t sum = 0, got = 0, last = INT64_MIN;
        for (size_t i = 0; i < n; i++) {
            uint8_t le[8];
            int64_t v = (int64_t)(rng_next(&rng) % 50) - 25;
            put_le64(le, (uint64_t)v);
            struct levee_record r = {slice_of(le, 8), slice_of(NULL, 0), (int64_t)i};
            bed_feed(&b, 0, 0, &r, 1);
            sum += v * v;
        }
        MUST(bed_run(&b) == LEVEE_OK);
        const struct rt_records *part = &bed_output(&b, out)->parts[0];
        ck_assert_uint_eq(part->count, n);
        for (size_t i = 0; i < n; i++) {
            int64_t v = levee_i64(part->items[i].key);
            ck_assert_int_ge(v, last);
            MUST(v != last || part->items[i - 1].time_ms < part->items[i].time_ms); /* stable */
            last = v;
            got += v * v;
        }
        ck_assert_int_eq(got, sum);
        bed_end_batch(&b);
    }
    bed_release(&b);
}
END_TEST

static int distinct(levee_output *out, const levee_batch *const *in, size_t n,
                    const levee_batch **ret, void *arg)
{
    (void)out;
    (void)n;
    (void)arg;
    *ret = levee_batch_distinct(in[0]);
    return 0;
}

START_TEST(distinct_keeps_the_first_of_equals_where_it_is)
{
    struct levee_record in[] = {
        {slice_str("ab"), slice_str("c"), 0}, {slice_str("a"), slice_str("bc"), 0},
        {slice_str("ab"), slice_str("c"), 9}, {slice_str("x"), slice_of(NULL, 0), 0},
        {slice_str("x"), slice_of("", 0), 0}, {slice_of(NULL, 0), slice_str("x"), 0},
        {slice_str("a"), slice_str("bc"), 8}, {slice_str("x"), slice_of(NULL, 0), 7},
        {slice_of("", 0), slice_str("x"), 0}, {slice_str("z"), slice_str("z"), 0}};
    struct bed b;

    bed_init(&b, 2, 0);
    levee_stream *s = bed_source(&b, 2);
    size_t out = bed_sink(&b, levee_transform(&s, 1, distinct, NULL));
    MUST(bed_open(&b) == LEVEE_OK);
    bed_feed(&b, 0, 0, in, 6);
    bed_feed(&b, 0, 1, in + 6, 4);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show(&b, out, shown, sizeof shown), "ab=c a=bc x= x= =x|=x z=z");
    const struct rt_records *part = bed_output(&b, out)->parts;
    for (size_t i = 0; i < 5; i++) {
        ck_assert_int_eq(part[0].items[i].time_ms, 0);
    }
    bed_release(&b);
}
END_TEST

static int taken(levee_output *out, const levee_batch *const *in, size_t n, const levee_batch **ret,
                 void *arg)
{
    (void)out;
    (void)n;
    *ret = levee_batch_take(in[0], *(const size_t *)arg);
    return 0;
}

START_TEST(taking_the_first)
{
    static const char *const want[] = {"|",        "=a|",         "=a =b|",
                                       "=a =b|=c", "=a =b|=c =d", "=a =b|=c =d"};
    size_t n = (size_t)_i;
    struct bed b;

    bed_init(&b, 1, 0);
    levee_stream *s = bed_source(&b, 2);
    size_t out = bed_sink(&b, levee_transform(&s, 1, taken, &n));
    MUST(bed_open(&b) == LEVEE_OK);
    for (uint16_t i = 0; i < 4; i++) {
        struct levee_record r = {.value = slice_of(&"abcd"[i], 1)};
        bed_feed(&b, 0, i / 2, &r, 1);
    }
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show(&b, out, shown, sizeof shown), want[_i]);
    bed_release(&b);
}
END_TEST

/* Two samples and everything, side by side. */
static int sampled(levee_output *out, const levee_batch *const *in, size_t n,
                   const levee_batch **ret, void *arg)
{
    double fraction = *(const double *)arg;
    const levee_batch *three[3] = {levee_batch_sample(in[0], fraction),
                                   levee_batch_sample(in[0], fraction), in[0]};

    (void)out;
    (void)n;
    *ret = levee_batch_union(three, 3);
    return 0;
}

START_TEST(a_sample_follows_from_the_batch)
{
    enum { N = 4000 };
    double fraction = 0.25;
    uint64_t digests[2][3];
    size_t counts[2] = {0, 0}, both = 0;

    for (int round = 0; round < 2; round++) {
        struct bed b;
        bed_init(&b, 1 + (uint32_t)round, 0);
        levee_stream *s = bed_source(&b, 2);
        size_t out = bed_sink(&b, levee_partitions(levee_transform(&s, 1, sampled, &fraction), 6));
        MUST(bed_open(&b) == LEVEE_OK);
        for (uint64_t batch = 0; batch < 3; batch++) {
            bool in[2][N] = {{false}};
            for (uint32_t i = 0; i < N; i++) {
                uint8_t le[8] = {(uint8_t)i, (uint8_t)(i >> 8)};
                struct levee_record r = {.value = slice_of(le, 8)};
                bed_feed(&b, 0, i % 2, &r, 1);
            }
            b.batch = batch; /* the third is the second, replayed; its seed is the batch's */
            b.batch -= batch == 2;
            MUST(bed_run(&b) == LEVEE_OK);
            digests[round][batch] = b.compute.digests[out];
            const struct rt_records *parts = bed_output(&b, out)->parts;
            ck_assert_uint_eq(parts[4].count + parts[5].count, N);
            for (uint32_t p = 0; p < 4; p++) {
                for (size_t i = 0; i < parts[p].count; i++) {
                    int64_t v = levee_i64(parts[p].items[i].value);
                    MUST(v < N && v % 2 == p % 2 && !in[p / 2][v]);
                    in[p / 2][v] = true;
                    counts[p / 2] += round == 0 && batch == 0;
                }
            }
            for (uint32_t i = 0; round == 0 && batch == 0 && i < N; i++) {
                both += in[0][i] && in[1][i];
            }
            bed_end_batch(&b);
        }
        bed_release(&b);
    }
    ck_assert_mem_eq(digests[0], digests[1], sizeof digests[0]);
    ck_assert_uint_ne(digests[0][0], digests[0][1]);
    ck_assert_uint_eq(digests[0][1], digests[0][2]);
    /* 1000 each, 250 in both, if the two are independent: within seven standard deviations. */
    ck_assert(counts[0] > 800 && counts[0] < 1200 && counts[1] > 800 && counts[1] < 1200);
    ck_assert(both > 145 && both < 355);
}
END_TEST

/* Fails once, after having sampled. */
static int sampled_again(levee_output *out, const levee_batch *const *in, size_t n,
                         const levee_batch **ret, void *arg)
{
    double fraction = 0.5;

    MUST(sampled(out, in, n, ret, &fraction) == 0);
    return ++*(_Atomic int *)arg == 1 ? -1 : 0;
}

START_TEST(a_retry_samples_alike)
{
    uint64_t digests[2];

    for (int round = 0; round < 2; round++) {
        _Atomic int calls = round;
        struct bed b;
        uint64_t rng = 5;
        bed_init(&b, 1, 0);
        levee_stream *s = bed_source(&b, 1);
        size_t out = bed_sink(&b, levee_transform(&s, 1, sampled_again, &calls));
        b.opt.retries = 1;
        MUST(bed_open(&b) == LEVEE_OK);
        feed_words(&b, 0, 1, &rng, 200);
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_int_eq(calls, 2);
        digests[round] = b.compute.digests[out];
        bed_release(&b);
    }
    ck_assert_uint_eq(digests[0], digests[1]);
}
END_TEST

static int all_or_nothing(levee_output *out, const levee_batch *const *in, size_t n,
                          const levee_batch **ret, void *arg)
{
    (void)out;
    (void)n;
    (void)arg;
    MUST(levee_batch_count(levee_batch_sample(in[0], 0.0)) == 0);
    MUST(levee_batch_count(levee_batch_sample(in[0], 1.0)) == levee_batch_count(in[0]));
    MUST(levee_batch_count(levee_batch_of(in[0], NULL, 0, 3)) == 0);
    MUST(levee_batch_partitions(levee_batch_of(in[0], NULL, 0, 3)) == 3);
    *ret = in[0];
    return 0;
}

/* ---- what a transform may do ---- */

/* One record with the time of the batch, how many records each stream had, and a name. */
static int stamp(levee_output *out, const levee_batch *const *in, size_t n, const levee_batch **ret,
                 void *arg)
{
    char *text = levee_alloc(out, 64);
    int len = snprintf(text, 64, "%lld:", (long long)levee_batch_time(out));

    MUST(levee_emit(out, slice_str("no"), slice_str("effect")) == 0);
    for (size_t i = 0; i < n; i++) {
        len += snprintf(text + len, 64 - (size_t)len, "%zu/%zu,", levee_batch_count(in[i]),
                        levee_batch_partitions(in[i]));
    }
    struct levee_record r = {slice_str(arg), slice_of(text, (size_t)len), 5};
    *ret = levee_batch_of(in[0], &r, 1, 1);
    return 0;
}

START_TEST(a_transform_sees_every_stream_and_the_time)
{
    char name[] = "key";
    struct bed b;

    bed_init(&b, 3, 0);
    levee_stream *s[3] = {bed_source(&b, 3), bed_source(&b, 1), NULL};
    s[2] = levee_reduce_by_key(s[1], &levee_count_values);
    size_t out = bed_sink(&b, levee_partitions(levee_transform(s, 3, stamp, name), 1));
    size_t two = bed_sink(&b, levee_partitions(levee_transform_with(s[1], s[1], stamp, name), 2));
    size_t same = bed_sink(&b, levee_transform(s, 1, all_or_nothing, NULL));
    MUST(bed_open(&b) == LEVEE_OK);
    struct levee_record r[3] = {{slice_str("a"), slice_str("x"), 0},
                                {slice_str("a"), slice_str("y"), 0},
                                {slice_str("b"), slice_str("z"), 0}};
    bed_feed(&b, 0, 2, r, 2);
    bed_feed(&b, 1, 0, r, 3);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show(&b, out, shown, sizeof shown), "key=1000:2/3,3/1,2/8,");
    ck_assert_str_eq(bed_show(&b, two, shown, sizeof shown), "|key=1000:3/1,3/1,");
    ck_assert_str_eq(bed_show(&b, same, shown, sizeof shown), "||a=x a=y");
    bed_end_batch(&b);
    MUST(bed_run(&b) == LEVEE_OK); /* also for an empty batch */
    ck_assert_str_eq(bed_show(&b, out, shown, sizeof shown), "key=2000:0/3,0/1,0/8,");
    bed_release(&b);
}
END_TEST

static int first_of(levee_output *out, const levee_batch *const *in, size_t n,
                    const levee_batch **ret, void *arg)
{
    (void)out;
    (void)n;
    (void)arg;
    *ret = in[0];
    return 0;
}

/* Partition i of n holds records ⌊i·len/n⌋ to ⌊(i+1)·len/n⌋. */
START_TEST(a_result_is_cut_into_as_many_partitions_as_the_stream_has)
{
    static const uint32_t counts[] = {1, 2, 4, 7, 100};

    for (size_t c = 0; c < ARRAY_LEN(counts); c++) {
        for (size_t n = 0; n < 1000; n = n * 3 + 1) {
            struct bed b;
            size_t at = 0;
            bed_init(&b, 2, 0);
            levee_stream *s = bed_source(&b, 3);
            size_t out =
                bed_sink(&b, levee_partitions(levee_transform(&s, 1, first_of, NULL), counts[c]));
            MUST(bed_open(&b) == LEVEE_OK);
            for (size_t i = 0; i < n; i++) { /* uneven: most in the last partition */
                uint16_t p = i < n / 10 ? 0 : 2;
                uint8_t le[8] = {(uint8_t)i, (uint8_t)(i >> 8)};
                struct levee_record r = {.value = slice_of(le, 8)};
                bed_feed(&b, 0, p, &r, 1);
            }
            MUST(bed_run(&b) == LEVEE_OK);
            const struct rt_dataset *d = bed_output(&b, out);
            ck_assert_uint_eq(d->partitions, counts[c]);
            for (size_t p = 0; p < counts[c]; p++) {
                ck_assert_uint_eq(d->parts[p].count, (p + 1) * n / counts[c] - p * n / counts[c]);
                for (size_t i = 0; i < d->parts[p].count; i++) {
                    MUST(levee_i64(d->parts[p].items[i].value) == (int64_t)at++);
                }
            }
            bed_release(&b);
        }
    }
}
END_TEST

/* Below a window of three batches every third: as often as the window has output, and with all of
 * it. */
static int count_calls(levee_output *out, const levee_batch *const *in, size_t n,
                       const levee_batch **ret, void *arg)
{
    MUST(n == 1 && levee_batch_time(out) % 3000 == 0);
    ++*(_Atomic int *)arg;
    *ret = in[0];
    return 0;
}
static int count_keys(levee_output *out, levee_updates *updates, void *arg)
{
    struct levee_update u;

    MUST(levee_batch_time(out) % 3000 == 0);
    ++*(_Atomic int *)arg;
    while (levee_update_next(updates, &u)) {
        MUST(levee_state_set_i64(u.state, (int64_t)u.n) == 0);
    }
    return 0;
}

START_TEST(below_a_window_it_waits_until_that_is_due)
{
    _Atomic int transforms = 0, updates = 0;
    struct bed b;

    bed_init(&b, 2, 0);
    levee_stream *w = levee_window(bed_source(&b, 1), "w", 3000, 3000);
    size_t out = bed_sink(&b, levee_transform(&w, 1, count_calls, &transforms));
    levee_stream *s = levee_update_state_by_partition(w, "u", NULL, count_keys, &updates);
    size_t state = bed_sink(&b, levee_partitions(s, 1));
    MUST(bed_open(&b) == LEVEE_OK);
    for (int batch = 1; batch <= 7; batch++) {
        struct levee_record r = {slice_str("k"), slice_of(&"abcdefg"[batch - 1], 1), 0};
        bed_feed(&b, 0, 0, &r, 1);
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_str_eq(bed_show(&b, out, shown, sizeof shown), batch == 3   ? "k=a k=b k=c"
                                                                 : batch == 6 ? "k=d k=e k=f"
                                                                              : "");
        ck_assert_str_eq(bed_show(&b, state, shown, sizeof shown), batch % 3 ? "" : "k=3");
        ck_assert_int_eq(transforms, batch / 3);
        ck_assert_int_eq(updates, batch / 3);
        bed_end_batch(&b);
    }
    bed_release(&b);
}
END_TEST

/* ---- failures ---- */

enum way { /* in which a transform goes wrong */
           BY_CODE,
           NO_RESULT,
           BY_MAP,        /* a function within fails, and the transform says so */
           BY_MAP_UNSAID, /* the same, and it returns something else */
           BY_REDUCER,
           NO_FUNCTION,
           BAD_REDUCER,
           BAD_KIND,
           BAD_PARTITIONS,
           WAYS
};
struct mishap {
    enum way way;
    int failures; /* so many, then it succeeds */
    _Atomic int calls;
};

static int fails(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)arg;
    MUST(levee_emit(out, in->key, in->value) == 0);
    return slice_eq(in->value, slice_str("bad")) ? -11 : 0;
}
static int fails_in_add(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    (void)out;
    (void)acc;
    (void)arg;
    return slice_eq(value, slice_str("bad")) ? -12 : 0;
}

static const levee_batch *go_wrong(enum way way, const levee_batch *in)
{
    static const struct levee_reducer none;
    struct levee_reducer r = levee_sum_i64;

    switch (way) {
    case BY_MAP:
    case BY_MAP_UNSAID:
        return levee_batch_map(in, fails, NULL);
    case BY_REDUCER:
        r.create = r.add = fails_in_add;
        return levee_batch_reduce_by_key(in, &r);
    case NO_FUNCTION:
        return levee_batch_filter(in, NULL, NULL);
    case BAD_REDUCER:
        return levee_batch_reduce_by_key(in, &none);
    case BAD_KIND:
        return levee_batch_join(in, in, (enum levee_join)9);
    case BAD_PARTITIONS:
        return levee_batch_of(in, NULL, 0, 0);
    case BY_CODE:
    case NO_RESULT:
    case WAYS:
        break;
    }
    return NULL;
}

static int moody(levee_output *out, const levee_batch *const *in, size_t n, const levee_batch **ret,
                 void *arg)
{
    struct mishap *m = arg;

    (void)out;
    (void)n;
    *ret = in[0];
    if (m->calls++ >= m->failures) {
        return 0;
    }
    if (m->way == BY_CODE) {
        return -13;
    }
    const levee_batch *b = go_wrong(m->way, in[0]);
    MUST(b == NULL);
    /* After a failure there are no more results. */
    MUST(m->way == NO_RESULT || levee_batch_take(in[0], 1) == NULL);
    MUST(levee_batch_distinct(b) == NULL && levee_batch_join(in[0], b, LEVEE_INNER) == NULL);
    *ret = m->way == BY_MAP_UNSAID ? in[0] : b;
    return 0;
}

static const int codes[WAYS] = {
    -13,           LEVEE_EINVALID, -11, -11, -12, LEVEE_EINVALID, LEVEE_EINVALID, LEVEE_EINVALID,
    LEVEE_EINVALID};

static size_t bed_mishap(struct bed *b, struct mishap *m, enum levee_on_failure policy)
{
    bed_init(b, 2, 0);
    levee_stream *s[2] = {bed_source(b, 2), bed_source(b, 1)};
    size_t out = bed_sink(b, levee_transform_at(s, 2, moody, m, "graph.c", 21));
    b->opt.retries = 1;
    b->opt.on_failure = policy;
    MUST(bed_open(b) == LEVEE_OK);
    return out;
}

static void feed_mishap(struct bed *b)
{
    struct levee_record r[3] = {{slice_str("k"), slice_str("fine"), 0},
                                {slice_str("k"), slice_str("bad"), 0},
                                {slice_str("l"), slice_str("other"), 0}};

    bed_feed(b, 0, 0, r, 1);
    bed_feed(b, 0, 1, r + 1, 1);
    bed_feed(b, 1, 0, r + 2, 1);
}

START_TEST(a_transform_is_retried_as_a_whole)
{
    struct mishap m = {.way = (enum way)_i, .failures = 1};
    struct bed b;
    size_t out = bed_mishap(&b, &m, LEVEE_STOP);

    feed_mishap(&b);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show(&b, out, shown, sizeof shown), "k=fine|k=bad");
    ck_assert_int_eq(m.calls, 2);
    bed_release(&b);
}
END_TEST

START_TEST(a_transform_that_fails_for_good_names_its_line)
{
    struct mishap m = {.way = (enum way)_i, .failures = 9};
    struct bed b;
    char found[40];

    (void)bed_mishap(&b, &m, LEVEE_STOP);
    feed_mishap(&b);
    ck_assert_int_eq(bed_run(&b), LEVEE_EFUNCTION);
    (void)snprintf(found, sizeof found, "%d after 2 calls", codes[_i]);
    ck_assert_str_eq(b.compute.err.where, "graph.c:21");
    ck_assert_str_eq(b.compute.err.found, found);
    ck_assert_ptr_nonnull(strstr(b.compute.err.what, "transform failed on"));
    bed_release(&b);
}
END_TEST

START_TEST(all_records_of_a_failed_transform_are_dead_letters)
{
    static const char *const values[] = {"fine", "bad", "other"};
    struct mishap m = {.way = (enum way)_i, .failures = 9};
    struct rt_decision decided[3];
    struct bed b;
    size_t out = bed_mishap(&b, &m, LEVEE_DEAD_LETTER);

    for (int replay = 0; replay < 2; replay++) {
        feed_mishap(&b);
        b.compute.apply = replay ? decided : NULL;
        b.compute.apply_count = replay ? 3 : 0;
        b.compute.apply_only = replay;
        m.calls = 0;
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_uint_eq(b.compute.output_records[out], 0);
        ck_assert_int_eq(m.calls, replay ? 0 : 2);
        ck_assert_uint_eq(b.compute.decision_count, 3);
        for (size_t i = 0; i < 3; i++) {
            decided[i] = b.compute.decisions[i];
            ck_assert_str_eq(decided[i].uid, "#2:transform");
            ck_assert_uint_eq(decided[i].index, i);
            ck_assert_int_eq(decided[i].code, codes[_i]);
            ck_assert(slice_eq(decided[i].value, slice_str(values[i])));
        }
        bed_end_batch(&b);
    }
    bed_release(&b);
}
END_TEST

static int in_foreach(levee_output *out, const levee_batch *const *in, size_t n,
                      const levee_batch **ret, void *arg)
{
    struct levee_batch alone = {.data = in[0]->data}; /* as foreach_batch sees it */

    (void)out;
    (void)n;
    (void)arg;
    MUST(levee_batch_map(&alone, fn_swap, NULL) == NULL);
    MUST(levee_batch_sort_by_key(&alone, NULL, NULL) == NULL);
    MUST(levee_batch_union((const levee_batch *[]){in[0], &alone}, 2) == NULL);
    MUST(levee_batch_union(NULL, 0) == NULL && levee_batch_of(NULL, NULL, 0, 1) == NULL);
    MUST(levee_batch_count(&alone) == levee_batch_count(in[0]));
    *ret = in[0]; /* nothing of this was a failure */
    return 0;
}

START_TEST(what_belongs_to_no_transform_gives_nothing)
{
    struct bed b;

    bed_init(&b, 1, 0);
    levee_stream *s = bed_source(&b, 1);
    size_t out = bed_sink(&b, levee_transform(&s, 1, in_foreach, NULL));
    MUST(bed_open(&b) == LEVEE_OK);
    bed_feed_text(&b, (const char *const[]){"x"}, 1);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show(&b, out, shown, sizeof shown), "=x");
    bed_release(&b);
}
END_TEST

START_TEST(builders_refuse)
{
    struct bed b;
    const char *text = "transform: no function";

    bed_init(&b, 1, 0);
    levee_stream *s[2] = {bed_source(&b, 1), bed_source(&b, 1)}, *r = NULL;
    switch (_i) {
    case 0:
        r = levee_transform(s, 2, NULL, NULL);
        break;
    case 1:
        s[1]->slide = 4;
        r = levee_transform(s, 2, first_of, NULL);
        text = "transform: the streams have different slides: 1 and 4 batches";
        break;
    case 2:
        r = levee_transform_with(s[0], NULL, first_of, NULL);
        text = "transform: a stream is NULL";
        break;
    default:
        r = levee_transform(s, 1, first_of, NULL);
        MUST(r != NULL && bed_sink(&b, r) == 0);
        r = levee_partitions(r, 3);
        text = "in use already";
    }
    ck_assert_ptr_null(r);
    ck_assert_ptr_nonnull(strstr(b.graph->error.what, text));
    ck_assert_ptr_null(levee_transform(NULL, 1, first_of, NULL));
    ck_assert_ptr_null(levee_transform(s, 0, first_of, NULL));
    bed_release(&b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_transform");
    TCase *t = tcase_create("transform");

    tcase_add_loop_test(t, an_operation_is_the_same_on_a_batch, 0, (int)ARRAY_LEN(twins));
    tcase_add_loop_test(t, sorting_is_stable_and_cut_evenly, 0, 2);
    tcase_add_test(t, sorting_any_number_of_numbers);
    tcase_add_test(t, distinct_keeps_the_first_of_equals_where_it_is);
    tcase_add_loop_test(t, taking_the_first, 0, 6);
    tcase_add_test(t, a_sample_follows_from_the_batch);
    tcase_add_test(t, a_retry_samples_alike);
    tcase_add_test(t, a_transform_sees_every_stream_and_the_time);
    tcase_add_test(t, a_result_is_cut_into_as_many_partitions_as_the_stream_has);
    tcase_add_test(t, below_a_window_it_waits_until_that_is_due);
    tcase_add_loop_test(t, a_transform_is_retried_as_a_whole, 0, WAYS);
    tcase_add_loop_test(t, a_transform_that_fails_for_good_names_its_line, 0, WAYS);
    tcase_add_loop_test(t, all_records_of_a_failed_transform_are_dead_letters, 0, WAYS);
    tcase_add_test(t, what_belongs_to_no_transform_gives_nothing);
    tcase_add_loop_test(t, builders_refuse, 0, 4);
    suite_add_tcase(s, t);
    return suite_main(s);
}
