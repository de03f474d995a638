/*
 * The heap of timers against a plain array, and process_by_key: the meanings that are easy to get
 * wrong. (test_rt_process.c compares random runs with a model.) Batch k has time 1000 k.
 */
#include "runtime/exec.h"
#include "tests/unit/test_rt_functions.h"

static char shown[8192];

/* ---- the heap ---- */

START_TEST(the_heap_knows_the_earliest)
{
    enum { ENTRIES = 200 };
    struct rt_timers t = {0};
    int64_t at[ENTRIES];
    uint64_t rng = (uint64_t)_i + 1;

    for (size_t i = 0; i < ENTRIES; i++) {
        at[i] = RT_NEVER;
    }
    rt_timers_set(&t, 3, RT_NEVER); /* nothing to take away, and no room */
    for (int step = 0; step < 4000; step++) {
        uint32_t e = (uint32_t)(rng_next(&rng) % ENTRIES);
        bool off = rng_next(&rng) % (step / 1000 % 2 ? 2 : 5) == 0;
        at[e] = off ? RT_NEVER : (int64_t)(rng_next(&rng) % 50) - 25;
        MUST(rt_timers_reserve(&t, e + 1));
        rt_timers_set(&t, e, at[e]);
        int64_t first = RT_NEVER;
        size_t count = 0;
        for (size_t i = 0; i < ENTRIES; i++) {
            first = at[i] < first ? at[i] : first;
            count += at[i] != RT_NEVER;
        }
        ck_assert_int_eq(rt_timers_first(&t), first);
        ck_assert_uint_eq(t.count, count);
        ck_assert(first == RT_NEVER || at[t.heap[0].entry] == first);
    }
    rt_timers_release(&t);
}
END_TEST

START_TEST(a_heap_without_memory_stays_as_it_was)
{
    struct rt_timers t = {0};

    MUST(rt_timers_reserve(&t, 8));
    rt_timers_set(&t, 7, 70);
    for (uint64_t k = 1; k <= 2; k++) {
        mem_fail_at(k);
        ck_assert(!rt_timers_reserve(&t, 1000));
        mem_fail_at(0);
        ck_assert_int_eq(rt_timers_first(&t), 70);
        rt_timers_set(&t, 0, 7);
        ck_assert_int_eq(rt_timers_first(&t), 7);
        rt_timers_set(&t, 0, RT_NEVER);
    }
    MUST(rt_timers_reserve(&t, 1000));
    rt_timers_set(&t, 999, 1);
    ck_assert_int_eq(rt_timers_first(&t), 1);
    rt_timers_release(&t);
}
END_TEST

/* ---- commands ---- */

/*
 * A record's value is a list of commands, "/" between them: "e5" sets a timer at event time 5, "p5"
 * at batch time 5, "E5" and "P5" cancel, "+x" makes x the state, "-" removes it, "?" emits it, "!"
 * fails after everything. A timer emits "e5:state" and then does what the state says, if it begins
 * with "~".
 */
static int obey(levee_output *out, levee_state *state, struct levee_slice key,
                struct levee_slice todo)
{
    char text[64];
    int rc = 0;

    MUST(todo.len < sizeof text);
    memcpy(text, todo.data, todo.len);
    text[todo.len] = 0;
    for (char *save = NULL, *w = strtok_r(text, "/", &save); w && rc >= 0;
         w = strtok_r(NULL, "/", &save)) {
        int64_t t = strtoll(w + 1, NULL, 10);
        struct levee_slice now = slice_of((const uint8_t *)"", 0);
        switch (w[0]) {
        case 'e':
            rc = levee_timer_event(state, t);
            break;
        case 'p':
            rc = levee_timer_processing(state, t);
            break;
        case 'E':
            levee_timer_cancel_event(state, t);
            break;
        case 'P':
            levee_timer_cancel_processing(state, t);
            break;
        case '+':
            rc = levee_state_set(state, slice_of(w + 1, strlen(w + 1)));
            break;
        case '-':
            levee_state_remove(state);
            break;
        case '?':
            (void)levee_state_get(state, &now);
            rc = levee_emit_copy(out, key, now);
            break;
        default:
            rc = -3;
        }
    }
    return rc;
}

static int on_record(levee_output *out, levee_state *state, const struct levee_record *in,
                     void *arg)
{
    (void)arg;
    return obey(out, state, in->key, in->value);
}

static int on_timer(levee_output *out, levee_state *state, struct levee_slice key,
                    const struct levee_timer *timer, void *arg)
{
    struct levee_slice now = {NULL, 0}, copy;
    char text[100];

    (void)arg;
    bool exists = levee_state_get(state, &now);
    int n = snprintf(text, sizeof text, "%c%lld:%.*s", timer->processing ? 'p' : 'e',
                     (long long)timer->time_ms, exists ? (int)now.len : 1,
                     exists ? (const char *)now.data : "-");
    MUST(n > 0 && levee_emit_copy(out, key, slice_of(text, (size_t)n)) == 0);
    if (!exists || now.len < 2 || now.data[0] != '~') {
        return 0;
    }
    uint8_t *p = levee_alloc(out, now.len);
    MUST(p != NULL);
    memcpy(p, now.data, now.len);
    copy = slice_of(p + 1, now.len - 1);
    for (size_t i = 0; i < copy.len; i++) {
        p[i + 1] = p[i + 1] == ',' ? '/' : p[i + 1];
    }
    return obey(out, state, key, copy);
}

static void feed(struct bed *b, const char *pairs, int64_t time_ms)
{
    for (const char *p = pairs; *p;) {
        size_t len = strcspn(p, " ");
        struct levee_record r = {slice_of(p, 1), slice_of(p + 2, len - 2), time_ms};
        bed_feed(b, 0, 0, &r, 1);
        p += len + (p[len] == ' ');
    }
}

/* Input at an event time, which is the watermark of the batches after. */
static void expect_batch(struct bed *b, int64_t time_ms, const char *input, const char *want)
{
    feed(b, input, time_ms);
    if (bed_run(b) != LEVEE_OK) {
        ck_abort_msg("%s, %s", b->compute.err.what, b->compute.err.found);
    }
    ck_assert_str_eq(bed_show_sorted(b, 0, shown, sizeof shown), want);
    bed_end_batch(b);
}

static void bed_process(struct bed *b, const struct levee_state_options *o, levee_timer_fn timer)
{
    bed_init(b, 2, 0);
    levee_stream *s = levee_event_time(bed_source(b, 1), "time", NULL, NULL, NULL);
    bed_sink(b, levee_process_by_key(s, "process", o, on_record, timer, NULL));
    b->opt.on_failure = LEVEE_DEAD_LETTER;
    if (bed_open(b) != LEVEE_OK) {
        ck_abort_msg("%s", b->err.what);
    }
    MUST(rt_engine_loaded(b->engine, NULL, 0, &b->err) == LEVEE_OK);
}

static uint64_t keys_of(const struct bed *b)
{
    uint64_t keys, bytes;

    rt_engine_state_size(b->engine, &keys, &bytes);
    return keys;
}

START_TEST(timers_fire_once_and_only_when_due)
{
    struct bed b;

    bed_process(&b, NULL, on_timer);
    expect_batch(&b, 10, "a=+x/e20/e20/p5000 b=e10", ""); /* 1: b's is due by the next watermark */
    ck_assert(rt_engine_event_due(b.engine, 2000));
    expect_batch(&b, 19, "", "b=e10:-"); /* 2 */
    ck_assert(!rt_engine_wants_empty_batch(b.engine, 4999));
    ck_assert(rt_engine_wants_empty_batch(b.engine, 5000));
    expect_batch(&b, 20, "c=?", "c=");  /* 3 */
    expect_batch(&b, 0, "", "a=e20:x"); /* 4 */
    ck_assert_uint_eq(keys_of(&b), 1);
    expect_batch(&b, 0, "a=-", "a=p5000:x"); /* 5: before the records */
    ck_assert_uint_eq(keys_of(&b), 0);
    ck_assert(!rt_engine_wants_empty_batch(b.engine, INT64_MAX - 1));
    bed_release(&b);
}
END_TEST

/* The timer is of the boundary before the batch: the record finds what it left. */
START_TEST(a_timer_and_data_of_its_key_in_one_batch)
{
    struct bed b;

    bed_process(&b, NULL, on_timer);
    expect_batch(&b, 10, "a=+~+y/e10/e11 a=p2000", "");
    feed(&b, "a=?/E11/+z a=?", 11);
    MUST(bed_run(&b) == LEVEE_OK);
    static const char *const want[] = {"e10:~+y", "p2000:y", "y", "z"};
    for (uint32_t p = 0; p < 8; p++) {
        const struct rt_records *part = &bed_output(&b, 0)->parts[p];
        ck_assert(part->count == 0 || part->count == ARRAY_LEN(want));
        for (size_t i = 0; i < part->count; i++) {
            ck_assert(slice_eq(part->items[i].value, slice_str(want[i])));
        }
        if (part->count) { /* the timer's; then the watermark; then the record's */
            ck_assert_int_eq(part->items[0].time_ms, 10);
            ck_assert_int_eq(part->items[1].time_ms, 10);
            ck_assert_int_eq(part->items[2].time_ms, 11);
        }
    }
    ck_assert_uint_eq(b.compute.output_records[0], ARRAY_LEN(want));
    bed_end_batch(&b);
    expect_batch(&b, 0, "", ""); /* 11 was cancelled */
    bed_release(&b);
}
END_TEST

START_TEST(cancelled_and_removed_and_come_back)
{
    struct bed b;

    bed_process(&b, NULL, on_timer);
    expect_batch(&b, 1, "a=e5/p3000/+s b=e5/E5/E5/P9", "");
    ck_assert_uint_eq(keys_of(&b), 1); /* b has nothing */
    expect_batch(&b, 6, "a=-", "");    /* its timers stay */
    ck_assert_uint_eq(keys_of(&b), 1);
    expect_batch(&b, 6, "", "a=e5:- a=p3000:-");
    ck_assert_uint_eq(keys_of(&b), 0);
    expect_batch(&b, 6, "a=?/e4", "a=");
    expect_batch(&b, 6, "", "a=e4:-"); /* in the past: in the next batch */
    bed_release(&b);
}
END_TEST

/* Chains run on within a batch as long as time rises; what is over waits for the next batch. */
START_TEST(timers_that_set_timers)
{
    struct bed b;

    bed_process(&b, NULL, on_timer);
    expect_batch(&b, 100, "a=+~e40,e50,e200/e30 b=+~e7/e8 c=+~p1000/p2000", "");
    feed(&b, "", 0);
    expect_batch(&b, 0, "",
                 "a=e30:~e40,e50,e200 a=e40:~e40,e50,e200 a=e50:~e40,e50,e200 "
                 "b=e8:~e7 c=p2000:~p1000");
    ck_assert(rt_engine_wants_empty_batch(b.engine, 3000));
    /* 40 set itself again, in vain; 50 set 40 and 50 again, which are over by then. */
    expect_batch(&b, 0, "b=- c=-",
                 "a=e40:~e40,e50,e200 a=e50:~e40,e50,e200 b=e7:~e7 "
                 "c=p1000:~p1000");
    expect_batch(&b, 0, "a=+x", "a=e40:~e40,e50,e200 a=e50:~e40,e50,e200 b=e7:- c=p1000:-");
    expect_batch(&b, 300, "", "a=e40:x a=e50:x");
    expect_batch(&b, 300, "z=?", "z=");
    expect_batch(&b, 300, "", "a=e200:x");
    ck_assert(!rt_engine_wants_empty_batch(b.engine, INT64_MAX - 1));
    bed_release(&b);
}
END_TEST

START_TEST(failed_calls_have_no_effect_but_a_timer_is_over)
{
    struct bed b;
    struct rt_decision decided[4];
    static const int64_t logged[] = {10, 10};

    bed_process(&b, NULL, on_timer);
    expect_batch(&b, 10, "a=+x/e15/p9000 g=+~!/e12/p3000", "");
    for (int replay = 0; replay < 2; replay++) {
        b.batch = 1;
        feed(&b, "a=+y/e11/E15/P9000/-/!/ n=e9/!", 12);
        b.compute.apply = replay ? decided : NULL;
        b.compute.apply_count = replay ? 2 : 0;
        b.compute.apply_only = replay;
        b.compute.watermarks = logged; /* read anew the second time, it would make g's timer due */
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_uint_eq(b.compute.output_records[0], 0);
        ck_assert_uint_eq(b.compute.decision_count, 2);
        for (size_t i = 0; i < 2; i++) {
            decided[i] = b.compute.decisions[i];
            ck_assert_int_eq(decided[i].code, -3);
        }
        bed_end_batch(&b);
        ck_assert_uint_eq(keys_of(&b), 2);
    }
    feed(&b, "", 0);
    b.batch = 2;
    if (bed_run(&b)) { /* both timers of g fail, and a's do not */
        ck_abort_msg("%s %s", b.compute.err.what, b.compute.err.found);
    }
    ck_assert_str_eq(bed_show_sorted(&b, 0, shown, sizeof shown), "");
    ck_assert_uint_eq(b.compute.decision_count, 2);
    ck_assert(slice_eq(b.compute.decisions[0].key, slice_str("g")));
    ck_assert(slice_eq(b.compute.decisions[0].value, slice_str("~!"))); /* its state */
    bed_end_batch(&b);
    expect_batch(&b, 20, "g=?", "g=~!");
    ck_assert(!rt_engine_wants_empty_batch(b.engine, 8999) ||
              rt_engine_event_due(b.engine, 8999)); /* nothing of g's is left */
    expect_batch(&b, 20, "", "a=e15:x");
    b.batch = 8;
    expect_batch(&b, 20, "", "a=p9000:x");
    bed_release(&b);
}
END_TEST

START_TEST(timers_without_a_function_or_a_time_are_refused)
{
    struct bed b;
    static const char *const bad[] = {"a=e2305843009213693953", "a=p-2305843009213693953"};

    bed_process(&b, NULL, NULL);
    feed(&b, "a=e5 b=p5", 0);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_uint_eq(b.compute.decision_count, 2);
    ck_assert_int_eq(b.compute.decisions[0].code, LEVEE_ESTATE);
    bed_release(&b);

    bed_init(&b, 1, 0); /* no event time */
    b.opt.on_failure = LEVEE_DEAD_LETTER;
    bed_sink(&b, levee_process_by_key(bed_source(&b, 1), "p", NULL, on_record, on_timer, NULL));
    MUST(bed_open(&b) == LEVEE_OK);
    feed(&b, "a=e5 b=p1500", 0);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_uint_eq(b.compute.decision_count, 1);
    ck_assert_int_eq(b.compute.decisions[0].code, LEVEE_ESTATE);
    bed_end_batch(&b);
    expect_batch(&b, 0, "", "b=p1500:-");
    bed_release(&b);

    bed_process(&b, NULL, on_timer);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        feed(&b, bad[i], 0);
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_int_eq(b.compute.decisions[0].code, LEVEE_EINVALID);
        bed_end_batch(&b);
    }
    expect_batch(&b, -2305843009213693952, "a=e-2305843009213693952/e2305843009213693952", "");
    expect_batch(&b, 2305843009213693952, "b=?", "a=e-2305843009213693952:- b=");
    expect_batch(&b, 0, "", "a=e2305843009213693952:-");
    bed_release(&b);
}
END_TEST

static int too_many(levee_output *out, levee_state *state, const struct levee_record *in, void *arg)
{
    (void)out;
    (void)arg;
    for (int64_t i = 0; i < 4096; i++) {
        ck_assert_int_eq(levee_timer_event(state, i * 7919 % 4096), LEVEE_OK);
    }
    ck_assert_int_eq(levee_timer_event(state, 5), LEVEE_OK); /* it is there */
    ck_assert_int_eq(levee_timer_event(state, 4096), LEVEE_ELIMIT);
    ck_assert_int_eq(levee_timer_processing(state, 4096), LEVEE_OK);
    return levee_state_set(state, in->value);
}
START_TEST(a_key_has_4096_timers_of_a_kind_at_most)
{
    struct bed b;

    bed_init(&b, 1, 0);
    levee_stream *s = levee_event_time(bed_source(&b, 1), "time", NULL, NULL, NULL);
    bed_sink(&b, levee_process_by_key(s, "p", NULL, too_many, on_timer, NULL));
    MUST(bed_open(&b) == LEVEE_OK);
    feed(&b, "a=s", 4095);
    MUST(bed_run(&b) == LEVEE_OK);
    bed_end_batch(&b);
    feed(&b, "", 0);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_uint_eq(b.compute.output_records[0], 4096);
    for (uint32_t p = 0; p < 8; p++) {
        const struct rt_records *part = &bed_output(&b, 0)->parts[p];
        for (size_t i = 0; i < part->count; i++) {
            ck_assert_int_eq(part->items[i].time_ms, (int64_t)i);
        }
    }
    bed_release(&b);
}
END_TEST

START_TEST(a_call_that_changes_nothing_leaves_nothing_to_gather)
{
    struct bed b;
    struct ckpt_slices *slices;
    size_t n;

    bed_process(&b, NULL, on_timer);
    expect_batch(&b, 1, "a=+x/p99000", "");
    bed_copy_delta(&b, NULL);
    expect_batch(&b, 2, "a=?/E5/P6", "a=x");
    MUST(rt_engine_gather(b.engine, &slices, &n, NULL) == LEVEE_OK);
    ck_assert_uint_eq(n, 1);
    ck_assert_uint_eq(slices[0].mark_count, 0);
    rt_engine_free_slices(slices, n);
    bed_release(&b);
}
END_TEST

/* Initial state, and what other readers of the table see: the user's part, without timers. */
static int collect(void *arg, struct levee_slice key, struct levee_slice value)
{
    char *to = arg;

    (void)snprintf(to + strlen(to), 64, "%.*s=%.*s ", (int)key.len, (const char *)key.data,
                   (int)value.len, (const char *)value.data);
    return 0;
}
START_TEST(readers_of_the_state_see_no_timers)
{
    struct levee_record initial[] = {{slice_str("i"), slice_str("old"), 0},
                                     {slice_str("i"), slice_str("0"), 0}};
    struct levee_state_options o = {.initial = initial, .initial_count = 2, .version = 3};
    struct bed b;
    char text[256] = "";

    bed_init(&b, 2, 0);
    levee_stream *s = levee_event_time(bed_source(&b, 1), "time", NULL, NULL, NULL);
    levee_stream *p = levee_process_by_key(s, "process", &o, on_record, on_timer, NULL);
    bed_sink(&b, p);
    size_t snapshots = bed_sink(&b, levee_state_snapshots(p));
    ck_assert_uint_eq(p->state_version, 3);
    MUST(bed_open(&b) == LEVEE_OK);
    MUST(rt_engine_loaded(b.engine, NULL, 0, &b.err) == LEVEE_OK);
    feed(&b, "a=+x/e99 t=e98 i=?/p99000", 0);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show_sorted(&b, 0, shown, sizeof shown), "i=0");
    ck_assert_str_eq(bed_show_sorted(&b, snapshots, shown, sizeof shown), "a=x i=0");
    bed_end_batch(&b);
    ck_assert_int_eq(rt_engine_each(b.engine, rt_uid_hash("process"), collect, text), 0);
    ck_assert_uint_eq(strlen(text), strlen("a=x i=0 "));
    ck_assert(strstr(text, "a=x ") && strstr(text, "i=0 "));
    bed_release(&b);
}
END_TEST

/* In one key group by time, then key; groups in order. */
START_TEST(timers_fire_in_the_order_of_time_and_key)
{
    struct bed b;
    size_t ordered = 0;

    bed_init(&b, 2, 0);
    levee_stream *s = levee_event_time(bed_source(&b, 1), "time", NULL, NULL, NULL);
    levee_stream *p = levee_process_by_key(s, "p", NULL, on_record, on_timer, NULL);
    bed_sink(&b, levee_partitions(p, 1));
    MUST(bed_open(&b) == LEVEE_OK);
    for (int i = 0; i < 600; i++) {
        char key[8], todo[32];
        int k = i * 7 % 300;
        int n = snprintf(key, sizeof key, "%03d", k);
        int m = snprintf(todo, sizeof todo, "e%d", i < 300 ? 50 - k % 5 : 60 - k % 3);
        struct levee_record r = {slice_of(key, (size_t)n), slice_of(todo, (size_t)m), 100};
        bed_feed(&b, 0, 0, &r, 1);
    }
    MUST(bed_run(&b) == LEVEE_OK);
    bed_end_batch(&b);
    MUST(bed_run(&b) == LEVEE_OK);
    const struct rt_records *part = &bed_output(&b, 0)->parts[0];
    ck_assert_uint_eq(part->count, 600);
    for (size_t i = 1; i < part->count; i++) {
        const struct levee_record *x = &part->items[i - 1], *y = &part->items[i];
        if (group_of(view(x->key)) != group_of(view(y->key))) {
            ck_assert_uint_lt(group_of(view(x->key)), group_of(view(y->key)));
            continue;
        }
        ordered++;
        ck_assert(x->time_ms < y->time_ms ||
                  (x->time_ms == y->time_ms && memcmp(x->key.data, y->key.data, 3) < 0));
    }
    ck_assert_uint_gt(ordered, 400);
    bed_release(&b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_timers");
    TCase *t = tcase_create("timers");

    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, the_heap_knows_the_earliest, 0, 4);
    tcase_add_test(t, a_heap_without_memory_stays_as_it_was);
    tcase_add_test(t, timers_fire_once_and_only_when_due);
    tcase_add_test(t, a_timer_and_data_of_its_key_in_one_batch);
    tcase_add_test(t, cancelled_and_removed_and_come_back);
    tcase_add_test(t, timers_that_set_timers);
    tcase_add_test(t, failed_calls_have_no_effect_but_a_timer_is_over);
    tcase_add_test(t, timers_without_a_function_or_a_time_are_refused);
    tcase_add_test(t, a_key_has_4096_timers_of_a_kind_at_most);
    tcase_add_test(t, a_call_that_changes_nothing_leaves_nothing_to_gather);
    tcase_add_test(t, readers_of_the_state_see_no_timers);
    tcase_add_test(t, timers_fire_in_the_order_of_time_and_key);
    suite_add_tcase(s, t);
    return suite_main(s);
}
