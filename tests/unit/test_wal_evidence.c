/*
 * The scanner, case by case: each kind of evidence that the verdicts R1 to R10 rest on, frames that
 * verify and are wrong all the same, files that are not where they belong, and what is no fact
 * about the disk but an error. Catalogue 44, 53 to 58. The loss is damage at rest.
 */
#include "tests/unit/test_wal.h"
#include "wal/wal_scan.h"

#define SIZE (64u << 10)

static struct ref_log r;
static struct wal_facts facts;
static uint64_t rng;

/* Two segments: LSNs 1 to 5 in three groups, then 6 to 8 in two. */
static void open_log(void)
{
    rng = 77;
    open_machine(1);
    ref_begin(&r, 1, SIZE, 3);
    ref_group(&r, 2, 300, &rng);
    ref_group(&r, 2, 300, &rng);
    ref_group(&r, 1, 300, &rng);
    ref_begin(&r, 2, SIZE, 3);
    ref_group(&r, 2, 300, &rng);
    ref_group(&r, 1, 300, &rng);
    put_log(&r);
}

static void close_log(void)
{
    wal_facts_release(&facts);
    ref_release(&r);
    close_machine();
}

static void scan(void)
{
    wal_facts_release(&facts);
    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_OK);
}

static const char *segment_name(uint64_t number)
{
    static char path[IO_PATH_MAX];

    segment_path(path, number);
    return path;
}

static uint8_t *at(uint64_t number, uint64_t offset)
{
    uint64_t size;
    uint8_t *bytes = segment_bytes(number, &size);

    ck_assert_uint_lt(offset, size);
    return bytes + offset;
}

/* The one bad place, or NONE. */
static void expect(enum wal_bad_kind kind, uint64_t segment, uint64_t group_lsn, bool witnessed)
{
    scan();
    ck_assert_int_eq(facts.bad.kind, kind);
    ck_assert_uint_eq(facts.bad_count, kind != WAL_BAD_NONE);
    if (kind != WAL_BAD_NONE) {
        ck_assert_uint_eq(facts.segments[facts.bad.segment_index].number, segment);
        ck_assert_uint_eq(facts.bad.group_lsn, group_lsn);
        ck_assert_int_eq(facts.bad.witnessed, witnessed);
    }
}

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

/* ---- errors ---- */

static uint64_t fail_every_allocation(size_t entries)
{
    uint64_t k = 0;
    int code;

    do {
        struct wal_facts f;
        mem_fail_at(++k);
        code = wal_scan(io, WAL_DIR, &ref_context, 0, &f, &err);
        mem_fail_at(0);
        if (code == LEVEE_OK) {
            ck_assert_uint_eq(f.entry_count, entries);
            wal_facts_release(&f);
        } else {
            ck_assert_int_eq(code, LEVEE_ENOMEM);
        }
    } while (code != LEVEE_OK);
    return k;
}

START_TEST(no_memory_is_an_error_at_every_allocation)
{
    open_log();
    put_file("x.tmp", "", 0);
    ck_assert_uint_gt(fail_every_allocation(8), 15);
    *at(1, r.groups[1].offset + 70) ^= 1; /* a bad group is noted */
    ck_assert_uint_gt(fail_every_allocation(6), 15);
    *at(1, 8192 + 70) ^= 1; /* and a SEGMENT_START */
    ck_assert_uint_gt(fail_every_allocation(3), 15);
    *at(1, 500) ^= 1; /* and a header */
    *at(1, BLOCK + 500) ^= 1;
    ck_assert_uint_gt(fail_every_allocation(3), 15);
    close_log();
}
END_TEST

/* A large read that fails is tried again in small ones: what went wrong only once costs nothing. */
START_TEST(a_passing_read_error_costs_nothing)
{
    struct sim_faults faults = {.seed = 1};

    open_log();
    io_sim_set_faults(io, &faults);
    scan();
    uint64_t reads = io_sim_reads(io);
    ck_assert_uint_ge(reads, 6); /* two headers, two beginnings, two segments */
    for (faults.fail_at_read = 1; faults.fail_at_read <= reads; faults.fail_at_read++) {
        io_sim_set_faults(io, &faults);
        expect(WAL_BAD_NONE, 0, 0, false);
        ck_assert_uint_eq(facts.entry_count, 8);
        ck_assert_uint_gt(io_sim_reads(io), reads);
    }
    close_log();
}
END_TEST

START_TEST(what_cannot_be_opened_or_listed_is_an_error)
{
    static const struct {
        enum tape_kind kind;
        const char *name;
        size_t skip;
    } calls[] = {{TAPE_LIST, "wal", 0},
                 {TAPE_OPEN, "1.seg", 0},
                 {TAPE_OPEN, "2.seg", 1},
                 {TAPE_STAT, "1.seg", 0},
                 {TAPE_STAT, "2.seg", 1}};

    open_log();
    tape_start(io);
    for (size_t i = 0; i < ARRAY_LEN(calls); i++) {
        tape_fail(calls[i].kind, calls[i].name, LEVEE_EACCESS, calls[i].skip);
        ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_EACCESS);
        ck_assert_int_eq(tape.fail_kind, TAPE_NONE);
    }
    scan();
    ck_assert_uint_eq(facts.entry_count, 8);
    *at(2, 8192 + 70) ^= 1; /* SEGMENT_START: the file is opened once more to look for witnesses */
    tape_fail(TAPE_OPEN, "2.seg", LEVEE_EACCESS, 1);
    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_EACCESS);
    close_log();
}
END_TEST

/* Fails one read after the other until a scan comes through; returns how many failed. */
static int fail_every_read(int fatal)
{
    int failed = 0, code;

    do {
        struct wal_facts f;
        tape_fail(TAPE_READ, ".seg", fatal, (size_t)failed);
        code = wal_scan(io, WAL_DIR, &ref_context, 0, &f, &err);
        if (code == LEVEE_OK) {
            wal_facts_release(&f);
        } else {
            ck_assert_int_eq(code, fatal);
            failed++;
        }
    } while (code != LEVEE_OK);
    tape.fail_kind = TAPE_NONE;
    return failed;
}

/* The machine goes down, or memory ends, at any read: an error, never a shorter log. The segment is
 * larger than the window, so that every kind of look at it needs reads of its own. */
START_TEST(a_crash_while_scanning_is_an_error)
{
    static const int fatal[] = {LEVEE_ECRASHED, LEVEE_ENOMEM};

    rng = 5;
    open_machine(1);
    ref_begin(&r, 1, 6u << 20, 1);
    for (int g = 0; g < 4; g++) {
        ref_group_begin(&r);
        for (int i = 0; i < 20; i++) {
            ref_data(&r, 59000, &rng);
        }
        ref_group_end(&r);
    }
    put_log(&r);
    tape_start(io);
    for (size_t i = 0; i < ARRAY_LEN(fatal); i++) {
        ck_assert_int_ge(fail_every_read(fatal[i]), 8); /* clean */
        *at(1, r.frames[3].offset + 70) ^= 1;           /* damage with three groups behind it */
        ck_assert_int_ge(fail_every_read(fatal[i]), 12);
        *at(1, 8192 + 70) ^= 1; /* and in SEGMENT_START */
        ck_assert_int_ge(fail_every_read(fatal[i]), 12);
        put_log(&r);
        *at(1, r.frames[r.frame_count - 3].offset + 70) ^= 1; /* a torn tail */
        ck_assert_int_ge(fail_every_read(fatal[i]), 8);
        put_log(&r);
        *at(1, (6u << 20) - 1) ^= 1; /* a byte in the zeros */
        ck_assert_int_ge(fail_every_read(fatal[i]), 12);
        put_log(&r);
    }
    close_log();
}
END_TEST

/* ---- reading entries ---- */

START_TEST(entries_are_found_by_lsn_and_read_back)
{
    struct buf buf = {0};

    open_log();
    scan();
    for (uint64_t lsn = 0; lsn <= 10; lsn++) {
        ck_assert_uint_eq(wal_facts_find(&facts, lsn), lsn == 0 ? 0 : lsn > 8 ? 8 : lsn - 1);
    }
    for (size_t i = 0; i < facts.entry_count; i++) {
        const struct wal_entry *e = &facts.entries[i];
        const uint8_t *payload = r.segments[e->segment].bytes + e->offset + 64;
        ck_assert_int_eq(wal_read_entry(io, WAL_DIR, &facts, e, &buf, &err), LEVEE_OK);
        ck_assert_uint_eq(buf.len, e->len);
        ck_assert_mem_eq(buf.data, payload, e->len);
    }
    buf_release(&buf);
    close_log();
}
END_TEST

START_TEST(an_entry_that_has_changed_is_refused)
{
    struct buf buf = {0};
    static char deep[IO_PATH_MAX];

    open_log();
    scan();
    struct wal_entry e = facts.entries[3];
    for (uint64_t i = 0; i < 64 + e.len; i++) { /* any byte */
        *at(1, e.offset + i) ^= 4;
        MUST(wal_read_entry(io, WAL_DIR, &facts, &e, &buf, &err) == LEVEE_EWAL_CORRUPT);
        MUST(strstr(err.where, "0000000000000001.seg") && strstr(err.where, "LSN 4"));
        *at(1, e.offset + i) ^= 4;
    }
    struct wal_entry other = e; /* what the facts say and what is there must be one */
    other.lsn++;
    ck_assert_int_eq(wal_read_entry(io, WAL_DIR, &facts, &other, &buf, &err), LEVEE_EWAL_CORRUPT);
    other = e;
    other.len--;
    ck_assert_int_eq(wal_read_entry(io, WAL_DIR, &facts, &other, &buf, &err), LEVEE_EWAL_CORRUPT);
    other = e;
    other.offset = SIZE - 32;
    ck_assert_int_lt(wal_read_entry(io, WAL_DIR, &facts, &other, &buf, &err), 0);
    other.offset = SIZE - 64;
    ck_assert_int_lt(wal_read_entry(io, WAL_DIR, &facts, &other, &buf, &err), 0);
    io_sim_bad_range(io, segment_name(1), e.offset + 64, 10);
    ck_assert_int_eq(wal_read_entry(io, WAL_DIR, &facts, &e, &buf, &err), LEVEE_EIO);
    io_sim_bad_range(io, segment_name(1), 0, 0);
    memset(deep, 'd', sizeof deep - 1);
    ck_assert_int_eq(wal_read_entry(io, deep, &facts, &e, &buf, &err), LEVEE_ELIMIT);
    buf_release(&buf);
    mem_fail_at(1);
    ck_assert_int_eq(wal_read_entry(io, WAL_DIR, &facts, &e, &buf, &err), LEVEE_ENOMEM);
    buf_release(&buf);
    ck_assert_int_eq(io->ops->unlink(io, segment_name(1), &err), LEVEE_OK);
    ck_assert_int_eq(wal_read_entry(io, WAL_DIR, &facts, &e, &buf, &err), LEVEE_ENOTFOUND);
    buf_release(&buf);
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
    tcase_add_test(t, a_byte_far_behind_the_end_is_found);
    tcase_add_test(t, f57_frames_of_another_life_of_the_file_are_stale);
    tcase_add_test(t, r4_r6_sectors_of_the_last_group_out_of_order);
    tcase_add_test(t, r3_the_beginning_of_a_group_is_torn);
    tcase_add_test(t, r6_a_damaged_pad);
    tcase_add_test(t, r7_an_unreadable_sector_is_told_from_an_end);
    tcase_add_test(t, witnesses_are_found_at_every_place);
    suite_add_tcase(suite, t);
    t = tcase_create("wrong frames");
    tcase_add_test(t, r9_frames_that_verify_but_do_not_belong_here);
    tcase_add_test(t, r9_repeated_groups_behind_damage_are_not_read);
    tcase_add_test(t, r9_a_segment_that_begins_with_something_else);
    tcase_add_test(t, everything_behind_an_unwitnessed_group_is_dropped);
    tcase_add_test(t, everything_behind_an_unwitnessed_hole_is_dropped);
    tcase_add_test(t, f53_absurd_lengths_are_refused);
    tcase_add_test(t, a_seal_of_another_group_does_not_count);
    suite_add_tcase(suite, t);
    t = tcase_create("errors");
    tcase_add_test(t, no_memory_is_an_error_at_every_allocation);
    tcase_add_test(t, a_passing_read_error_costs_nothing);
    tcase_add_test(t, what_cannot_be_opened_or_listed_is_an_error);
    tcase_add_test(t, a_crash_while_scanning_is_an_error);
    tcase_add_test(t, entries_are_found_by_lsn_and_read_back);
    tcase_add_test(t, an_entry_that_has_changed_is_refused);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
