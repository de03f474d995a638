/*
 * The scanner and frames that verify and are wrong all the same (R9): out of order, of a type that
 * does not belong there, behind a hole, with a length beyond all bounds (catalogue 53), under a
 * seal that speaks of another group. The loss is damage at rest, or a bug of whoever wrote.
 */
#include "tests/unit/test_wal_log.h"

/* ---- frames that verify and are wrong ---- */

/* Behind damage the log goes on with higher LSNs only. */
START_TEST(r9_repeated_groups_behind_damage_are_not_read)
{
    open_log();
    r.next_lsn = 6; /* 6 and 7 once more, as if misdirected from elsewhere */
    ref_group(&r, 2, 300, &rng);
    put_log(&r);
    expect(WAL_BAD_SEQUENCE, 2, 9, false);
    *at(2, r.groups[4].offset + 70) ^= 1; /* LSN 8 */
    expect(WAL_BAD_FRAME, 2, 8, true);    /* the repeated frames do know that 8 was durable */
    ck_assert(!facts.bad.synced);
    ck_assert_uint_eq(facts.bad.end_lsn, UINT64_MAX);
    ck_assert_uint_eq(facts.entry_count, 7);
    close_log();
}
END_TEST

/* A frame in SEGMENT_START's place, or a SEGMENT_START of another length. */
START_TEST(r9_a_segment_that_begins_with_something_else)
{
    static const uint8_t zeros[BLOCK];

    for (int wrong = 0; wrong < 2; wrong++) {
        open_log();
        struct ref_segment *s = ref_begin(&r, 3, SIZE, 3);
        if (wrong == 0) {
            ref_append(&r, (struct ref_frame){.type = WAL_BLOCK, .len = 40, .lsn = 9}, zeros);
        } else {
            ref_append(&r, (struct ref_frame){.type = WAL_SEGMENT_START, .len = 48, .lsn = 9},
                       zeros);
        }
        put_log(&r);
        expect(WAL_BAD_FRAME, 3, 9, false);
        ck_assert_uint_eq(facts.bad.offset, 8192);
        ck_assert_uint_eq(s->first_lsn, 0);
        ck_assert(!facts.segments[2].spare);
        ck_assert_uint_eq(facts.entry_count, 8);
        close_log();
    }
}
END_TEST

/*
 * A group may be unwitnessed although verified ones follow: our writer never leaves such a log
 * (W3), but 4d.3 does not rest on that. From the bad group on everything is dropped, segments and
 * all.
 */
START_TEST(everything_behind_an_unwitnessed_group_is_dropped)
{
    open_log();
    ref_begin(&r, 3, SIZE, 3);
    r.durable = 3; /* what its frames say */
    ref_group(&r, 2, 300, &rng);
    put_log(&r);
    for (int i = 0; i < r.frame_count; i++) { /* nobody says more */
        ck_assert_uint_le(r.frames[i].durable, 7);
    }
    *at(2, r.groups[4].offset + 70) ^= 1;
    expect(WAL_BAD_FRAME, 2, 8, false);
    ck_assert_uint_eq(facts.bad.end_lsn, 9);
    ck_assert_uint_eq(facts.next_lsn, 8);
    ck_assert_uint_eq(facts.entry_count, 7);
    ck_assert(facts.segments[1].torn);
    ck_assert(facts.segments[2].torn);
    ck_assert_uint_eq(facts.segments[1].end_offset, r.groups[4].offset);
    ck_assert_uint_eq(facts.segments[1].last_lsn, 7);
    close_log();
}
END_TEST

START_TEST(everything_behind_an_unwitnessed_hole_is_dropped)
{
    open_log();
    *at(1, r.groups[1].offset + 70) ^= 1; /* damage further up, witnessed */
    ref_begin(&r, 3, SIZE, 3);
    r.next_lsn = 11; /* 9 and 10 are nowhere */
    r.durable = 8;
    ref_group(&r, 2, 300, &rng);
    ref_begin(&r, 4, SIZE, 3); /* a spare is no tail */
    put_log(&r);
    *at(1, r.groups[1].offset + 70) ^= 1;
    scan();
    ck_assert_uint_eq(facts.bad_count, 2);
    ck_assert(facts.bads[0].witnessed);
    ck_assert_int_eq(facts.bads[1].kind, WAL_BAD_MISSING);
    ck_assert_uint_eq(facts.bads[1].group_lsn, 9);
    ck_assert_uint_eq(facts.bads[1].end_lsn, 11);
    ck_assert(!facts.bads[1].witnessed);
    ck_assert_uint_eq(facts.next_lsn, 9);
    ck_assert_uint_eq(facts.entry_count, 6);
    ck_assert(facts.segments[2].torn);
    ck_assert(!facts.segments[3].torn);
    close_log();
}
END_TEST

static void data(uint16_t type, uint64_t lsn)
{
    ref_append(&r, (struct ref_frame){.type = type, .len = 3, .lsn = lsn}, "abc");
}

static void structural(uint16_t type, uint32_t len, uint64_t lsn, const void *payload)
{
    ref_append(&r, (struct ref_frame){.type = type, .len = len, .lsn = lsn}, payload);
}

/* The group after LSN 8 is written by hand; the place and kind of what is wrong with it are
 * expected at the frame with that index in the group. */
enum wrong {
    LSN_REPEATED,
    LSN_AHEAD,
    TYPE_ZERO,
    TYPE_UNKNOWN,
    CHAIN_BROKEN,
    START_IN_THE_MIDDLE,
    PAD_BEFORE_THE_SEAL,
    DATA_BEHIND_THE_SEAL,
    SECOND_SEAL,
    SEAL_COUNT,
    SEAL_FIRST,
    SEAL_LAST,
    SEAL_BYTES,
    SEAL_SHORT,
    NO_SEAL,
    WRONGS
};

static void wrong_group(int wrong)
{
    struct ref_segment *s = &r.segments[1];
    uint64_t lsn = r.next_lsn, begin = s->at;
    uint8_t seal[32];

    data(1, lsn);
    switch (wrong) {
    case LSN_REPEATED:
        data(1, lsn);
        break;
    case LSN_AHEAD:
        data(1, lsn + 2);
        break;
    case TYPE_ZERO:
        data(0, lsn + 1);
        break;
    case TYPE_UNKNOWN:
        data(WAL_PAD + 1, lsn + 1);
        break;
    case CHAIN_BROKEN:
        s->chain++;
        data(1, lsn + 1);
        break;
    case START_IN_THE_MIDDLE:
        structural(WAL_SEGMENT_START, 32, lsn + 1, seal);
        break;
    case PAD_BEFORE_THE_SEAL:
        structural(WAL_PAD, 0, lsn + 1, NULL);
        break;
    default:
        break;
    }
    ref_put(seal, 8, 1 + (wrong == SEAL_COUNT));
    ref_put(seal + 8, 8, lsn + (wrong == SEAL_FIRST));
    ref_put(seal + 16, 8, lsn + (wrong == SEAL_LAST));
    ref_put(seal + 24, 8, s->at - begin + (wrong == SEAL_BYTES));
    if (wrong != NO_SEAL) {
        structural(WAL_GROUP_SEAL, wrong == SEAL_SHORT ? 24 : 32, lsn + 1, seal);
    }
    if (wrong == DATA_BEHIND_THE_SEAL) {
        data(1, lsn + 1);
    } else if (wrong == SECOND_SEAL) {
        structural(WAL_GROUP_SEAL, 32, lsn + 1, seal);
    }
    static const uint8_t zeros[BLOCK];
    structural(WAL_PAD, (uint32_t)(BLOCK - s->at % BLOCK - 64), lsn + 1, zeros);
}

START_TEST(r9_frames_that_verify_but_do_not_belong_here)
{
    for (int wrong = 0; wrong < WRONGS; wrong++) {
        open_log();
        int before = r.frame_count;
        wrong_group(wrong);
        put_log(&r);
        scan();
        int index = wrong == DATA_BEHIND_THE_SEAL || wrong == SECOND_SEAL ? 2 : 1;
        ck_assert_msg(facts.bad_count == 1, "case %d: %zu", wrong, facts.bad_count);
        ck_assert_int_eq(facts.bad.kind, WAL_BAD_SEQUENCE);
        ck_assert_uint_eq(facts.bad.offset, r.frames[before + index].offset);
        ck_assert_uint_eq(facts.bad.group_lsn, 9);
        ck_assert_uint_eq(facts.bad.lsn, 10);
        ck_assert(!facts.bad.witnessed);
        ck_assert_uint_eq(facts.entry_count, 8);
        ck_assert_uint_eq(facts.next_lsn, 9);
        close_log();
    }
}
END_TEST

/* 53: nothing is allocated or read on the word of a length, not even of one whose hash is good. */
START_TEST(f53_absurd_lengths_are_refused)
{
    static const uint32_t lens[] = {UINT32_MAX, UINT32_MAX - 7, 1u << 31, SIZE, SIZE - 8192 - 64};

    open_log();
    struct ref_segment *s = &r.segments[1];
    uint64_t offset = s->at;
    for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
        struct wal_header h = {.type = WAL_BLOCK, .len = lens[i], .lsn = 9, .durable_lsn = 8};
        wal_header_encode(at(2, offset), &h, s->salt, offset, s->chain);
        expect(WAL_BAD_FRAME, 2, 9, false);
        ck_assert_uint_eq(facts.bad.offset, offset);
        ck_assert_uint_eq(facts.witnessed_lsn, 8); /* the header itself does verify */
    }
    close_log();
}
END_TEST

/* A seal in void bytes, or of another group, is nobody's own seal. */
START_TEST(a_seal_of_another_group_does_not_count)
{
    open_log();
    const struct ref_group *g = &r.groups[1]; /* LSN 3 and 4 */
    memset(at(1, g->offset), 0xff, g->end - g->offset);
    expect(WAL_BAD_FRAME, 1, 3, true);
    ck_assert(!facts.bad.group_seal_ok);
    ck_assert(facts.bad.later_valid);
    put_log(&r);
    /* A seal of the wrong length, and one whose payload is damaged, behind a damaged frame. */
    const struct ref_frame *seal = &r.frames[g->first_frame + 2];
    ck_assert_int_eq(seal->type, WAL_GROUP_SEAL);
    *at(1, g->offset + 70) ^= 1;
    *at(1, seal->offset + 64) ^= 1;
    expect(WAL_BAD_FRAME, 1, 3, true);
    ck_assert(!facts.bad.group_seal_ok);
    struct wal_header h = {.type = WAL_GROUP_SEAL, .len = 24, .lsn = 5};
    wal_header_encode(at(1, seal->offset), &h, r.segments[0].salt, seal->offset, 1);
    expect(WAL_BAD_FRAME, 1, 3, true);
    ck_assert(!facts.bad.group_seal_ok);
    close_log();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal_sequence");
    TCase *t = tcase_create("wrong frames");

    tcase_add_test(t, r9_frames_that_verify_but_do_not_belong_here);
    tcase_add_test(t, r9_repeated_groups_behind_damage_are_not_read);
    tcase_add_test(t, r9_a_segment_that_begins_with_something_else);
    tcase_add_test(t, everything_behind_an_unwitnessed_group_is_dropped);
    tcase_add_test(t, everything_behind_an_unwitnessed_hole_is_dropped);
    tcase_add_test(t, f53_absurd_lengths_are_refused);
    tcase_add_test(t, a_seal_of_another_group_does_not_count);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
