/* cogroup and the joins one by one. (tests/unit/test_rt_model.c compares them in graphs with a
 * model.) */
#include "tests/unit/test_rt_functions.h"

static char shown[8192];

/* "k=v" texts into a partition; a value of "-" is absent. */
static void feed(struct bed *b, size_t source, uint16_t partition, const char *pairs)
{
    for (const char *p = pairs; *p; p += 4) {
        struct levee_record r = {slice_of(p, 1), slice_of(p + 2, 1), 0};
        r.value = p[2] == '-' ? slice_of(NULL, 0) : r.value;
        bed_feed(b, source, partition, &r, 1);
        if (!p[3]) {
            break;
        }
    }
}

static size_t show_slice(char *to, size_t room, struct levee_slice s)
{
    return s.data ? (size_t)snprintf(to, room, "%.*s", (int)s.len, (const char *)s.data)
                  : (size_t)snprintf(to, room, "null");
}

/* Makes the two sides of every value legible: "left,right"; groups as "1.2.". */
static int spell_join(levee_output *out, const struct levee_record *in, void *arg)
{
    struct levee_slice sides[2], v;
    char text[256];
    size_t n = 0;

    MUST(levee_sides(in->value, &sides[0], &sides[1]));
    for (size_t i = 0; i < 2; i++) {
        n += i ? (size_t)snprintf(text + n, sizeof text - n, ",") : 0;
        if (!arg) {
            n += show_slice(text + n, sizeof text - n, sides[i]);
            continue;
        }
        MUST(sides[i].data != NULL);
        while (levee_group_next(&sides[i], &v)) {
            n += show_slice(text + n, sizeof text - n, v);
            n += (size_t)snprintf(text + n, sizeof text - n, ".");
        }
    }
    return levee_emit_copy(out, slice_of(NULL, 0), slice_of(text, n));
}

static levee_stream *spelled(levee_stream *s, bool groups)
{
    static char yes[] = "groups";

    return levee_map_values(s, spell_join, groups ? yes : NULL);
}

static void feed_both(struct bed *b)
{
    feed(b, 0, 1, "a=3 a=-"); /* after what partition 0 has */
    feed(b, 0, 0, "a=1 l=2");
    feed(b, 1, 0, "a=7 r=8 a=9");
}

START_TEST(every_kind_of_join)
{
    static const char *const inner = "a=1,7 a=1,9 a=3,7 a=3,9 a=null,7 a=null,9";
    static const char *const left[] = {"", " l=2,null", "", " l=2,null"};
    static const char *const right[] = {"", "", " r=null,8", " r=null,8"};
    struct bed b;
    char want[256];

    bed_init(&b, 2, 0);
    levee_stream *x = bed_source(&b, 2), *y = bed_source(&b, 1);
    size_t out =
        bed_sink(&b, levee_repartition(spelled(levee_join(x, y, (enum levee_join)_i), false), 1));
    MUST(bed_open(&b) == LEVEE_OK);
    (void)snprintf(want, sizeof want, "%s%s%s", inner, left[_i], right[_i]);
    feed_both(&b);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show_sorted(&b, out, shown, sizeof shown), want);
    bed_end_batch(&b);
    feed(&b, 1, 0, "r=5"); /* nothing of the batch before is left */
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show(&b, out, shown, sizeof shown),
                     _i == LEVEE_RIGHT_OUTER || _i == LEVEE_FULL_OUTER ? "r=null,5" : "");
    bed_release(&b);
}
END_TEST

START_TEST(pairs_of_a_key_come_in_the_order_of_the_left_values)
{
    struct bed b;

    bed_init(&b, 2, 0);
    levee_stream *x = bed_source(&b, 1), *y = bed_source(&b, 2);
    size_t out = bed_sink(&b, levee_repartition(spelled(levee_join(x, y, LEVEE_INNER), false), 1));
    MUST(bed_open(&b) == LEVEE_OK);
    feed(&b, 0, 0, "k=2 k=1");
    feed(&b, 1, 1, "k=8");
    feed(&b, 1, 0, "k=9 k=3");
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show(&b, out, shown, sizeof shown), "k=2,9 k=2,3 k=2,8 k=1,9 k=1,3 k=1,8");
    bed_release(&b);
}
END_TEST

START_TEST(a_cogroup_keeps_arrival_order_on_both_sides)
{
    struct bed b;

    bed_init(&b, 2, 0);
    levee_stream *x = bed_source(&b, 2), *y = bed_source(&b, 1);
    size_t out = bed_sink(&b, levee_repartition(spelled(levee_cogroup(x, y), true), 1));
    MUST(bed_open(&b) == LEVEE_OK);
    feed_both(&b);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show_sorted(&b, out, shown, sizeof shown), "a=1.3.null.,7.9. l=2., r=,8.");
    bed_release(&b);
}
END_TEST

START_TEST(a_stream_may_be_joined_with_itself)
{
    struct bed b;

    bed_init(&b, 2, 0);
    levee_stream *x = bed_source(&b, 2);
    size_t join =
        bed_sink(&b, levee_repartition(spelled(levee_join(x, x, LEVEE_FULL_OUTER), false), 1));
    size_t cogroup = bed_sink(&b, levee_repartition(spelled(levee_cogroup(x, x), true), 1));
    MUST(bed_open(&b) == LEVEE_OK);
    feed(&b, 0, 1, "k=2 m=3");
    feed(&b, 0, 0, "k=1");
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show_sorted(&b, join, shown, sizeof shown),
                     "k=1,1 k=1,2 k=2,1 k=2,2 m=3,3");
    ck_assert_str_eq(bed_show_sorted(&b, cogroup, shown, sizeof shown), "k=1.2.,1.2. m=3.,3.");
    bed_release(&b);
}
END_TEST

/* More pairs than fit a vector, of values of every length around those where a length takes another
 * byte. */
START_TEST(many_and_long_values)
{
    enum { N = 300 };
    static uint8_t bytes[17000];
    static const size_t lengths[] = {0, 1, 126, 127, 128, 16382, 16383, 16384};
    struct bed b;
    struct levee_slice l, r;

    memset(bytes, 'z', sizeof bytes);
    bed_init(&b, 2, 0);
    levee_stream *x = bed_source(&b, 1), *y = bed_source(&b, 1);
    size_t out = bed_sink(&b, levee_partitions(levee_join(x, y, LEVEE_INNER), 1));
    MUST(bed_open(&b) == LEVEE_OK);
    for (size_t i = 0; i < N; i++) {
        uint8_t number[2] = {(uint8_t)i, (uint8_t)(i >> 8)};
        struct levee_record rec = {slice_str("one key of many values"), slice_of(number, 2), 0};
        bed_feed(&b, 0, 0, &rec, 1);
    }
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        struct levee_record rec = {slice_str("one key of many values"), slice_of(bytes, lengths[i]),
                                   0};
        bed_feed(&b, 1, 0, &rec, 1);
    }
    MUST(bed_run(&b) == LEVEE_OK);
    const struct rt_records *part = &bed_output(&b, out)->parts[0];
    ck_assert_uint_eq(part->count, N * ARRAY_LEN(lengths));
    for (size_t i = 0; i < part->count; i++) {
        size_t k = i / ARRAY_LEN(lengths);
        MUST(levee_sides(part->items[i].value, &l, &r));
        MUST(l.len == 2 && l.data[0] == (uint8_t)k && l.data[1] == (uint8_t)(k >> 8));
        MUST(r.len == lengths[i % ARRAY_LEN(lengths)] && r.data &&
             memcmp(r.data, bytes, r.len) == 0);
    }
    bed_release(&b);
}
END_TEST

START_TEST(what_has_no_two_sides)
{
    static const uint8_t good[] = {2, 'l', 0}, more[] = {2, 'l', 0, 0};
    struct levee_slice l = {NULL, 0}, r = slice_str("untouched");

    ck_assert(!levee_sides(slice_of(NULL, 0), &l, &r));
    ck_assert(!levee_sides(slice_of(good, 0), &l, &r));
    ck_assert(!levee_sides(slice_of(good, 1), &l, &r));
    ck_assert(!levee_sides(slice_of(good, 2), &l, &r));
    ck_assert(!levee_sides(slice_of(more, 4), &l, &r));
    ck_assert(slice_eq(r, slice_str("untouched")) && !l.data);
    ck_assert(levee_sides(slice_of(good, 3), &l, &r));
    ck_assert(slice_eq(l, slice_str("l")) && !r.data);
}
END_TEST

START_TEST(builders_of_two_streams_refuse)
{
    struct bed b, other;
    levee_stream *r = NULL;
    const char *text = "a stream is NULL";

    bed_init(&b, 1, 0);
    bed_init(&other, 1, 0);
    levee_stream *x = bed_source(&b, 1), *y = bed_source(&b, 1);
    y->slide = _i == 0 || _i == 1 || _i == 5 ? 3 : 1;
    switch (_i) {
    case 0:
        r = levee_join(x, y, LEVEE_INNER);
        text = "join: the streams have different slides: 1 and 3 batches";
        break;
    case 1:
        r = levee_cogroup(x, y);
        text = "cogroup: the streams have different slides";
        break;
    case 2:
        r = levee_join(x, NULL, LEVEE_INNER);
        break;
    case 3:
        r = levee_cogroup(NULL, y);
        break;
    case 4:
        r = levee_join(x, y, (enum levee_join)4);
        text = "no kind of join: 4";
        break;
    case 5:
        r = levee_union(((levee_stream *[]){x, y}), 2);
        text = "union: the streams have different slides";
        break;
    default:
        r = levee_join(x, bed_source(&other, 1), LEVEE_INNER);
        text = "belongs to another context";
    }
    ck_assert_ptr_null(r);
    ck_assert_ptr_nonnull(strstr(b.graph->error.what, text));
    ck_assert_ptr_null(levee_join(NULL, NULL, LEVEE_INNER));
    bed_release(&other);
    bed_release(&b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_joins");
    TCase *t = tcase_create("joins");

    tcase_add_loop_test(t, every_kind_of_join, 0, 4);
    tcase_add_test(t, pairs_of_a_key_come_in_the_order_of_the_left_values);
    tcase_add_test(t, a_cogroup_keeps_arrival_order_on_both_sides);
    tcase_add_test(t, a_stream_may_be_joined_with_itself);
    tcase_add_test(t, many_and_long_values);
    tcase_add_test(t, what_has_no_two_sides);
    tcase_add_loop_test(t, builders_of_two_streams_refuse, 0, 7);
    suite_add_tcase(s, t);
    return suite_main(s);
}
