/*
 * The scanner, case by case: each kind of evidence that the verdicts R1 to R10 rest on, frames that
 * verify and are wrong all the same, files that are not where they belong, and what is no fact
 * about the disk but an error. Catalogue 44, 53 to 58. The loss is damage at rest.
 */
#include "tests/unit/test_wal_log.h"

/* ---- files ---- */

START_TEST(an_empty_directory_is_a_log_never_written)
{
    open_machine(1);
    scan();
    ck_assert_uint_eq(facts.first_lsn, 1);
    ck_assert_uint_eq(facts.next_lsn, 1);
    ck_assert_uint_eq(facts.segment_count, 0);
    ck_assert_uint_eq(facts.entry_count, 0);
    ck_assert_int_eq(facts.bad.kind, WAL_BAD_NONE);
    close_machine();
}
END_TEST

START_TEST(other_names_are_left_alone)
{
    static const char *const names[] = {"a", "0000000000000001.sec", "0000000000000000.seg",
                                        "000000000000000x.seg", "00000000000000003.seg"};

    open_log();
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        put_file(names[i], "junk", 4);
    }
    for (int i = 0; i < 12; i++) { /* more than the list begins with */
        char name[40];
        (void)snprintf(name, sizeof name, "%016x.seg.tmp", i);
        put_file(name, "junk", 4);
    }
    expect(WAL_BAD_NONE, 0, 0, false);
    ck_assert_uint_eq(facts.segment_count, 2);
    ck_assert_uint_eq(facts.entry_count, 8);
    ck_assert_uint_eq(facts.temps.count, 12);
    ck_assert_str_eq(facts.temps.items[11].name, "000000000000000b.seg.tmp");
    close_log();
}
END_TEST

START_TEST(f58_segments_of_another_context_are_named)
{
    uint8_t header[BLOCK];

    open_log();
    ref_segment_header(header, 9, 1, SIZE);
    header[24] ^= 0xff;
    ref_put(header + 4088, 8, hash64(header, 4088, 0));
    put_file("0000000000000009.seg", header, sizeof header);
    scan();
    ck_assert(facts.has_foreign);
    ck_assert_mem_eq(facts.foreign.b, header + 24, 16);
    ck_assert_uint_eq(facts.segment_count, 2);
    close_log();
}
END_TEST

START_TEST(a_newer_segment_is_refused_with_its_name)
{
    uint8_t header[BLOCK];

    open_log();
    ref_segment_header(header, 9, 1, SIZE);
    ref_put(header + 8, 2, 2);
    ref_put(header + 10, 2, 5);
    ref_put(header + 4088, 8, hash64(header, 4088, 0));
    put_file("0000000000000009.seg", header, sizeof header);
    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_EDIR_NEWER);
    ck_assert_str_eq(err.where, "0000000000000009.seg");
    ck_assert_ptr_nonnull(strstr(err.found, "2.5"));
    close_log();
}
END_TEST

/* R10: one copy is enough; the facts say so. */
START_TEST(r10_a_header_is_read_from_its_second_copy)
{
    open_log();
    *at(2, 500) ^= 1;
    expect(WAL_BAD_NONE, 0, 0, false);
    ck_assert_uint_eq(facts.entry_count, 8);
    ck_assert(!facts.segments[0].header_repaired);
    ck_assert(facts.segments[1].header_repaired);
    close_log();
}
END_TEST

START_TEST(r10_both_copies_bad_in_the_middle_is_damage)
{
    open_log();
    *at(1, 500) ^= 1;
    *at(1, BLOCK + 500) ^= 1;
    expect(WAL_BAD_HEADER, 1, 1, true);
    ck_assert_uint_eq(facts.bad.end_lsn, 6);
    ck_assert(facts.segments[0].header_bad);
    ck_assert_uint_eq(facts.first_lsn, 6);
    ck_assert_uint_eq(facts.entry_count, 3);
    close_log();
}
END_TEST

/* Without the salt nothing in the file can be verified, so it cannot be a witness for itself. */
START_TEST(both_copies_bad_at_the_end_look_like_a_tail)
{
    open_log();
    *at(2, 500) ^= 1;
    *at(2, BLOCK + 500) ^= 1;
    expect(WAL_BAD_HEADER, 2, 6, false);
    ck_assert_uint_eq(facts.bad.end_lsn, UINT64_MAX);
    ck_assert_uint_eq(facts.next_lsn, 6);
    ck_assert(facts.segments[1].torn);
    close_log();
}
END_TEST

/* 55: copied under another number, or the other one's name: the number in the header says so. */
START_TEST(f55_a_segment_under_another_name_is_bad)
{
    open_log();
    put_file("0000000000000003.seg", r.segments[0].bytes, SIZE);
    expect(WAL_BAD_HEADER, 3, 9, false);
    ck_assert_uint_eq(facts.entry_count, 8);
    close_log();
}
END_TEST

START_TEST(f55_a_missing_segment_is_a_hole)
{
    open_log();
    ref_begin(&r, 3, SIZE, 3);
    ref_group(&r, 1, 300, &rng);
    put_log(&r);
    ck_assert_int_eq(io->ops->unlink(io, segment_name(2), &err), LEVEE_OK);
    expect(WAL_BAD_MISSING, 3, 6, true);
    ck_assert_uint_eq(facts.bad.end_lsn, 9);
    ck_assert_uint_eq(facts.bad.expected, 2); /* the predecessor that segment 3 names */
    ck_assert_uint_eq(facts.entry_count, 6);
    close_log();
}
END_TEST

/* 56: cut between two groups, in the middle of one, within the headers. */
START_TEST(f56_a_segment_cut_short)
{
    open_log();
    const struct ref_group *g = &r.groups[1];
    put_file("0000000000000001.seg", r.segments[0].bytes, g->offset);
    expect(WAL_BAD_MISSING, 2, 3, true);
    ck_assert_uint_eq(facts.bad.end_lsn, 6);
    put_file("0000000000000001.seg", r.segments[0].bytes, g->offset + 100);
    expect(WAL_BAD_FRAME, 1, 3, true);
    ck_assert_uint_eq(facts.bad.end_lsn, 6);
    put_file("0000000000000001.seg", r.segments[0].bytes, 8192 + 64);
    expect(WAL_BAD_FRAME, 1, 1, true);
    put_file("0000000000000001.seg", r.segments[0].bytes, 5000);
    expect(WAL_BAD_FRAME, 1, 1, true); /* one good copy of the header is left, and nothing else */
    put_file("0000000000000001.seg", r.segments[0].bytes, 0);
    expect(WAL_BAD_HEADER, 1, 1, true);
    close_log();
}
END_TEST

/* ---- tails ---- */

START_TEST(r1_zeros_to_the_end_are_a_clean_end)
{
    open_log();
    expect(WAL_BAD_NONE, 0, 0, false);
    ck_assert_uint_eq(facts.segments[1].end_offset, r.segments[1].at);
    ck_assert_uint_eq(facts.segments[1].used_offset, r.segments[1].at);
    ck_assert_uint_eq(facts.segments[1].chain, r.segments[1].chain);
    ck_assert_uint_eq(facts.segments[1].last_lsn, 8);
    ck_assert_uint_eq(facts.witnessed_lsn, 7);
    close_log();
}
END_TEST

/* 54: the block that a segment begins with reads as zeros. That makes it no unused spare: what lies
 * behind is evidence, and of what was acknowledged. */
START_TEST(f54_a_segment_whose_first_block_is_gone_is_no_spare)
{
    open_log();
    memset(at(2, 8192), 0, BLOCK);
    expect(WAL_BAD_FRAME, 2, 6, true);
    ck_assert(facts.bad.synced);
    ck_assert(!facts.segments[1].spare);
    memset(at(2, 8192), 0, r.segments[1].at - 8192);
    *at(2, SIZE - 1) = 1;
    expect(WAL_BAD_FRAME, 2, 6, false); /* nothing says that anybody was told of it */
    *at(2, SIZE - 1) = 0;
    expect(WAL_BAD_NONE, 0, 0, false);
    ck_assert(facts.segments[1].spare);
    close_log();
}
END_TEST

/* Behind a megabyte of zeros a single byte: not a clean end. */
START_TEST(a_byte_far_behind_the_end_is_found)
{
    const uint64_t size = 3u << 20, far = (2u << 20) + 12345;

    rng = 1;
    open_machine(1);
    ref_begin(&r, 1, size, 1);
    ref_group(&r, 2, 300, &rng);
    put_log(&r);
    expect(WAL_BAD_NONE, 0, 0, false);
    *at(1, far) = 1;
    expect(WAL_BAD_FRAME, 1, 3, false);
    ck_assert_uint_eq(facts.bad.offset, r.segments[0].at);
    ck_assert_uint_eq(facts.segments[0].used_offset, far / BLOCK * BLOCK + BLOCK);
    ck_assert(!facts.bad.later_valid);
    ck_assert_uint_eq(facts.entry_count, 2);
    close_log();
}
END_TEST

START_TEST(f57_frames_of_another_life_of_the_file_are_stale)
{
    open_log();
    struct ref_segment *s = &r.segments[1];
    uint64_t end = s->at;
    s->salt += 2; /* as if the file had been in use before */
    ref_group(&r, 1, 300, &rng);
    memcpy(at(2, end), s->bytes + end, s->at - end);
    expect(WAL_BAD_STALE, 2, 9, false);
    ck_assert(!facts.bad.later_valid);
    ck_assert_uint_eq(facts.bad.offset, end);
    ck_assert_uint_eq(facts.next_lsn, 9);
    close_log();
}
END_TEST

/* A power loss kept the later sectors of the last group and lost the first (R4); its seal is good
 * (R6) or not. */
START_TEST(r4_r6_sectors_of_the_last_group_out_of_order)
{
    open_log();
    struct ref_segment *s = &r.segments[1];
    uint64_t begin = s->at;
    ref_group_begin(&r);
    for (int i = 0; i < 4; i++) {
        ref_data(&r, 2000, &rng);
    }
    ref_group_end(&r);
    put_log(&r);
    memset(at(2, begin), 0, 512);
    expect(WAL_BAD_FRAME, 2, 9, false);
    ck_assert_uint_eq(facts.bad.offset, begin);
    ck_assert(facts.bad.later_valid);
    ck_assert(facts.bad.group_seal_ok);
    ck_assert_uint_eq(facts.next_lsn, 9);
    ck_assert_uint_eq(facts.segments[1].end_offset, begin);
    ck_assert_uint_eq(facts.segments[1].used_offset, s->at);
    /* The same without the end of the group: torn (R3 or R4). */
    const struct ref_frame *seal = &r.frames[r.frame_count - 2];
    memset(at(2, seal->offset), 0, s->at - seal->offset);
    expect(WAL_BAD_FRAME, 2, 9, false);
    ck_assert(facts.bad.later_valid);
    ck_assert(!facts.bad.group_seal_ok);
    memset(at(2, begin + 512), 0, s->at - begin - 512);
    expect(WAL_BAD_NONE, 0, 0, false); /* nothing of it has reached the disk */
    close_log();
}
END_TEST

/* Only the beginning of the last group has reached the disk: not a clean end, though zeros follow.
 */
START_TEST(r3_the_beginning_of_a_group_is_torn)
{
    open_log();
    struct ref_segment *s = &r.segments[1];
    uint64_t begin = s->at;
    ref_group_begin(&r);
    ref_data(&r, 512 - 64, &rng); /* ends where a sector ends */
    ref_data(&r, 2000, &rng);
    ref_group_end(&r);
    memcpy(at(2, begin), s->bytes + begin, 512);
    expect(WAL_BAD_FRAME, 2, 9, false);
    ck_assert_uint_eq(facts.bad.offset, begin + 512);
    ck_assert_uint_eq(facts.bad.lsn, 10);
    ck_assert(!facts.bad.later_valid);
    ck_assert(!facts.bad.group_seal_ok);
    ck_assert_uint_eq(facts.next_lsn, 9);
    close_log();
}
END_TEST

/* The seal verifies, but what is behind it does not: sealed all the same. */
START_TEST(r6_a_damaged_pad)
{
    open_log();
    const struct ref_frame *pad = &r.frames[r.frame_count - 1];
    ck_assert_int_eq(pad->type, WAL_PAD);
    *at(2, pad->offset + 64) ^= 1;
    expect(WAL_BAD_FRAME, 2, 8, false);
    ck_assert(facts.bad.group_seal_ok);
    ck_assert_uint_eq(facts.bad.lsn, 9);
    close_log();
}
END_TEST

/* 44, R7: not the end of the log. */
START_TEST(r7_an_unreadable_sector_is_told_from_an_end)
{
    open_log();
    const struct ref_group *g = &r.groups[1];
    io_sim_bad_range(io, segment_name(1), g->offset, 512); /* a header */
    expect(WAL_BAD_READ, 1, 3, true);
    ck_assert_uint_eq(facts.bad.end_lsn, 5);
    ck_assert_uint_eq(facts.entry_count, 6);
    const struct ref_frame *f = &r.frames[r.groups[2].first_frame];
    io_sim_bad_range(io, segment_name(1), f->offset + 64, f->len); /* a payload and what follows */
    expect(WAL_BAD_READ, 1, 5, true);
    io_sim_bad_range(io, segment_name(1), 8192, 512); /* SEGMENT_START */
    expect(WAL_BAD_READ, 1, 1, true);
    io_sim_bad_range(io, segment_name(1), 0, 0);
    /* Behind the end: not known to be clean. */
    io_sim_bad_range(io, segment_name(2), 40000, 512);
    expect(WAL_BAD_FRAME, 2, 9, false);
    io_sim_bad_range(io, segment_name(2), 0, 0);
    close_log();
}
END_TEST

/* A header that reaches over a block's end is a witness although the block behind is unreadable or
 * damaged; and a readable block is searched although its neighbour is not. */
START_TEST(witnesses_are_found_at_every_place)
{
    open_machine(1);
    rng = 3;
    ref_begin(&r, 1, SIZE, 1);
    ref_group(&r, 1, 300, &rng);
    ref_group_begin(&r);
    uint64_t begin = r.groups[1].offset;
    ref_data(&r, BLOCK - 64 - 32, &rng); /* the next header lies across the boundary */
    ref_data(&r, 9, &rng);
    ref_group_end(&r);
    ck_assert_uint_eq(r.frames[r.groups[1].first_frame + 1].offset, begin + BLOCK - 32);
    put_log(&r);
    /* Group 1 is damaged, so is all of group 2 but that header: its word is the only one. */
    *at(1, 8192 + 200) ^= 1;
    memset(at(1, begin), 0xff, BLOCK - 32);
    memset(at(1, begin + BLOCK + 32), 0xff, r.segments[0].at - begin - BLOCK - 32);
    scan();
    ck_assert_uint_eq(facts.witnessed_lsn, 1);
    ck_assert_uint_eq(facts.bads[0].witness_lsn, 1);
    ck_assert(facts.bads[0].witnessed);
    put_log(&r);
    *at(1, 8192 + 200) ^= 1;
    *at(1, begin + 70) ^= 1;
    io_sim_bad_range(io, segment_name(1), begin + BLOCK, 512);
    scan();
    ck_assert_uint_eq(facts.witnessed_lsn, 1);
    ck_assert(facts.bads[0].witnessed);
    /* The last block of the file has no neighbour. */
    io_sim_bad_range(io, segment_name(1), SIZE - 100, 50);
    scan();
    ck_assert_uint_eq(facts.witnessed_lsn, 1);
    ck_assert(facts.bads[0].witnessed);
    close_log();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal_evidence");
    TCase *t = tcase_create("files");

    tcase_add_test(t, an_empty_directory_is_a_log_never_written);
    tcase_add_test(t, other_names_are_left_alone);
    tcase_add_test(t, f58_segments_of_another_context_are_named);
    tcase_add_test(t, a_newer_segment_is_refused_with_its_name);
    tcase_add_test(t, r10_a_header_is_read_from_its_second_copy);
    tcase_add_test(t, r10_both_copies_bad_in_the_middle_is_damage);
    tcase_add_test(t, both_copies_bad_at_the_end_look_like_a_tail);
    tcase_add_test(t, f55_a_segment_under_another_name_is_bad);
    tcase_add_test(t, f55_a_missing_segment_is_a_hole);
    tcase_add_test(t, f56_a_segment_cut_short);
    suite_add_tcase(suite, t);
    t = tcase_create("tails");
    tcase_add_test(t, r1_zeros_to_the_end_are_a_clean_end);
    tcase_add_test(t, f54_a_segment_whose_first_block_is_gone_is_no_spare);
    tcase_add_test(t, a_byte_far_behind_the_end_is_found);
    tcase_add_test(t, f57_frames_of_another_life_of_the_file_are_stale);
    tcase_add_test(t, r4_r6_sectors_of_the_last_group_out_of_order);
    tcase_add_test(t, r3_the_beginning_of_a_group_is_torn);
    tcase_add_test(t, r6_a_damaged_pad);
    tcase_add_test(t, r7_an_unreadable_sector_is_told_from_an_end);
    tcase_add_test(t, witnesses_are_found_at_every_place);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
