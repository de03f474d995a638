/*
 * Segments as files: names, the header in two copies, and the way from nothing to a segment that
 * may be used (W5). Power loss and full disks on the simulated machine; catalogue 34 and 35 (a name
 * without its bytes, bytes without their name), 50 (every bit of a header).
 */
#include "tests/unit/test_wal.h"

#include <errno.h>

#define SIZE (64u << 10)

static const struct wal_segment_header sample = {
    .number = 7,
    .salt = 0x1122334455667788,
    .size = SIZE,
    .major = 1,
    .minor = 0,
};

static struct wal_segment_header with_context(struct wal_segment_header h)
{
    h.context = ref_context;
    return h;
}

/* ---- names ---- */

START_TEST(names_are_sixteen_hex_digits)
{
    static const uint64_t numbers[] = {1, 9, 10, 0xabcdef, 0x0123456789abcdef, UINT64_MAX};
    static const char *const wrong[] = {
        "",
        "1.seg",
        "0000000000000000.seg", /* numbers begin at 1 */
        "000000000000000A.seg",
        "000000000000000g.seg",
        "000000000000000/.seg",
        "000000000000000:.seg",
        "000000000000000`.seg",
        "0000000000000001.SEG",
        "0000000000000001.seg.tmp",
        "0000000000000001",
        "00000000000000001.seg",
    };
    char name[WAL_NAME_BYTES];
    uint64_t back = 42;

    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        wal_segment_name(name, numbers[i]);
        ck_assert_uint_eq(strlen(name), 20);
        ck_assert(wal_segment_number(name, &back));
        ck_assert_uint_eq(back, numbers[i]);
    }
    wal_segment_name(name, 0xabc);
    ck_assert_str_eq(name, "0000000000000abc.seg");
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        ck_assert_msg(!wal_segment_number(wrong[i], &back), "%s", wrong[i]);
    }
}
END_TEST

/* ---- the header ---- */

static enum wal_header_state read_header(struct wal_segment_header *ret, int *ret_code)
{
    char path[IO_PATH_MAX];
    struct io_file *f;

    segment_path(path, sample.number);
    ck_assert_int_eq(io->ops->open(io, path, IO_READ, &f, &err), LEVEE_OK);
    enum wal_header_state state = wal_segment_header_read(io, f, ret, ret_code, &err);
    io->ops->close(f);
    return state;
}

static void put_header(const struct wal_segment_header *first,
                       const struct wal_segment_header *second)
{
    uint8_t both[2 * BLOCK];

    wal_segment_header_encode(both, first);
    wal_segment_header_encode(both + BLOCK, second);
    put_file("0000000000000007.seg", both, sizeof both);
}

static void open_with_header(void)
{
    struct wal_segment_header h = with_context(sample);

    open_machine(1);
    put_header(&h, &h);
}

static void is_sample(const struct wal_segment_header *h)
{
    MUST(h->number == sample.number && h->salt == sample.salt && h->size == sample.size);
    MUST(h->major == 1 && h->minor == 0 && h->incompatible == 0 && h->ro_compatible == 0);
    MUST(uuid_eq(&h->context, &ref_context));
}

START_TEST(every_field_of_the_header_lies_where_the_readme_says)
{
    uint8_t ours[BLOCK], expected[BLOCK];
    struct wal_segment_header h = with_context(sample);

    wal_segment_header_encode(ours, &h);
    ref_segment_header(expected, h.number, h.salt, h.size);
    ck_assert_mem_eq(ours, expected, BLOCK);
    h.minor = 0x0203;
    h.incompatible = 0x04050607;
    h.ro_compatible = 0x08090a0b;
    wal_segment_header_encode(ours, &h);
    ck_assert_uint_eq(ref_get(ours + 8, 2), 1);
    ck_assert_uint_eq(ref_get(ours + 10, 2), h.minor);
    ck_assert_uint_eq(ref_get(ours + 12, 4), h.incompatible);
    ck_assert_uint_eq(ref_get(ours + 16, 4), h.ro_compatible);
    ck_assert_uint_eq(ref_get(ours + 20, 4), 0);
    ck_assert_uint_eq(ref_get(ours + 4088, 8), hash64(ours, 4088, 0));
}
END_TEST

START_TEST(a_good_header_is_read)
{
    struct wal_segment_header h = {0};
    int code = 1;

    open_with_header();
    ck_assert_int_eq(read_header(&h, &code), WAL_HEADER_OK);
    ck_assert_int_eq(code, LEVEE_OK);
    is_sample(&h);
    close_machine();
}
END_TEST

/* Every bit of one copy, then the same bit of both. */
START_TEST(any_flipped_bit_of_one_copy_is_repaired_from_the_other)
{
    char path[IO_PATH_MAX];
    struct io_file *f;
    uint64_t size;
    int code;

    open_with_header();
    segment_path(path, sample.number);
    ck_assert_int_eq(io->ops->open(io, path, IO_READ, &f, &err), LEVEE_OK);
    uint8_t *bytes = segment_bytes(sample.number, &size);
    for (size_t bit = 0; bit < BLOCK * 8; bit++) {
        uint8_t mask = (uint8_t)(1u << bit % 8);
        struct wal_segment_header h = {0};
        bytes[bit / 8] ^= mask;
        MUST(wal_segment_header_read(io, f, &h, &code, NULL) == WAL_HEADER_REPAIRED);
        is_sample(&h);
        bytes[BLOCK + bit / 8] ^= mask;
        MUST(wal_segment_header_read(io, f, &h, &code, NULL) == WAL_HEADER_BAD);
        MUST(code == LEVEE_OK); /* a fact about the disk, no error */
        bytes[bit / 8] ^= mask;
        MUST(wal_segment_header_read(io, f, &h, &code, NULL) == WAL_HEADER_OK);
        is_sample(&h);
        bytes[BLOCK + bit / 8] ^= mask;
    }
    io->ops->close(f);
    close_machine();
}
END_TEST

/* Two valid copies that differ cannot come from one life of the writer; the first one counts. */
START_TEST(of_two_different_good_copies_the_first_one_counts)
{
    struct wal_segment_header a = with_context(sample), b = a, h;
    int code;

    open_machine(1);
    b.salt++;
    b.number++;
    put_header(&a, &b);
    ck_assert_int_eq(read_header(&h, &code), WAL_HEADER_OK);
    is_sample(&h);
    put_header(&b, &a);
    ck_assert_int_eq(read_header(&h, &code), WAL_HEADER_OK);
    ck_assert_uint_eq(h.number, b.number);
    close_machine();
}
END_TEST

START_TEST(an_unreadable_or_cut_copy_is_a_bad_one)
{
    struct wal_segment_header h = {0};
    uint8_t half[BLOCK + 100];
    char path[IO_PATH_MAX];
    int code;

    open_with_header();
    segment_path(path, sample.number);
    io_sim_bad_range(io, path, 512, 512);
    ck_assert_int_eq(read_header(&h, &code), WAL_HEADER_REPAIRED);
    is_sample(&h);
    io_sim_bad_range(io, path, 512, 2 * BLOCK);
    ck_assert_int_eq(read_header(&h, &code), WAL_HEADER_BAD);
    ck_assert_int_eq(code, LEVEE_OK);
    io_sim_bad_range(io, path, 0, 0);
    uint64_t size;
    memcpy(half, segment_bytes(sample.number, &size), sizeof half);
    put_file("0000000000000007.seg", half, sizeof half); /* the first copy and a bit */
    ck_assert_int_eq(read_header(&h, &code), WAL_HEADER_OK);
    half[0] ^= 1;
    put_file("0000000000000007.seg", half, sizeof half);
    ck_assert_int_eq(read_header(&h, &code), WAL_HEADER_BAD);
    put_file("0000000000000007.seg", half, 0);
    ck_assert_int_eq(read_header(&h, &code), WAL_HEADER_BAD);
    close_machine();
}
END_TEST

START_TEST(a_newer_format_is_told_from_damage)
{
    struct wal_segment_header h = with_context(sample), newer = h, read;
    int code;

    open_machine(1);
    newer.major = 2;
    put_header(&newer, &newer);
    ck_assert_int_eq(read_header(&read, &code), WAL_HEADER_NEWER);
    ck_assert_uint_eq(read.major, 2);
    newer = h;
    newer.incompatible = 1u << 31;
    put_header(&newer, &newer);
    ck_assert_int_eq(read_header(&read, &code), WAL_HEADER_NEWER);
    /* The same from the second copy alone. */
    uint64_t size;
    segment_bytes(sample.number, &size)[9]++;
    ck_assert_int_eq(read_header(&read, &code), WAL_HEADER_NEWER);
    /* What a newer minor version adds may be ignored. */
    newer = h;
    newer.minor = 9;
    newer.ro_compatible = 1;
    put_header(&newer, &newer);
    ck_assert_int_eq(read_header(&read, &code), WAL_HEADER_OK);
    close_machine();
}
END_TEST

/* No memory, or the machine is gone: nobody may conclude anything about the disk. */
START_TEST(what_is_no_fact_about_the_disk_is_an_error)
{
    static const int fatal[] = {LEVEE_ENOMEM, LEVEE_ECRASHED};
    struct wal_segment_header h;
    int code;

    open_with_header();
    tape_start(io);
    for (size_t i = 0; i < ARRAY_LEN(fatal); i++) {
        tape_fail(TAPE_READ, ".seg", fatal[i], 1);
        uint64_t size;
        segment_bytes(sample.number, &size)[0] ^= 1; /* so that both copies are read */
        ck_assert_int_eq(read_header(&h, &code), WAL_HEADER_BAD);
        ck_assert_int_eq(code, fatal[i]);
        segment_bytes(sample.number, &size)[0] ^= 1;
    }
    close_machine();
}
END_TEST

/* ---- creation ---- */

static int create_and_publish(struct levee_slice group)
{
    struct wal_segment_header h = with_context(sample);
    struct io_file *f = NULL;
    int code = wal_segment_create(io, WAL_DIR, &h, group, &f, &err);

    if (code == LEVEE_OK) {
        io->ops->close(f);
        code = wal_segment_publish(io, WAL_DIR, h.number, group.len > 0, &err);
    } else {
        ck_assert_ptr_null(f);
    }
    return code;
}

static void holds_sample(struct levee_slice group)
{
    uint8_t header[BLOCK];
    uint64_t size;
    const uint8_t *bytes = segment_bytes(sample.number, &size);

    ref_segment_header(header, sample.number, sample.salt, SIZE);
    ck_assert_uint_eq(size, SIZE);
    ck_assert_mem_eq(bytes, header, BLOCK);
    ck_assert_mem_eq(bytes + BLOCK, header, BLOCK);
    for (size_t i = 2 * BLOCK; i < SIZE; i++) {
        MUST(bytes[i] == (i - 2 * BLOCK < group.len ? group.data[i - 2 * BLOCK] : 0));
    }
}

static size_t files_in_dir(void)
{
    struct io_list list = {0};

    ck_assert_int_eq(io->ops->list(io, WAL_DIR, &list, &err), LEVEE_OK);
    size_t count = list.count;
    io_list_free(&list);
    return count;
}

START_TEST(creation_goes_step_by_step)
{
    static const struct {
        enum tape_kind kind;
        const char *name;
        uint64_t offset, len;
    } steps[] = {
        {TAPE_CREATE, "0000000000000007.seg.tmp", 0, 0},
        {TAPE_WRITE, "0000000000000007.seg.tmp", 0, SIZE}, /* zeros */
        {TAPE_WRITE, "0000000000000007.seg.tmp", 0, 2 * BLOCK},
        {TAPE_WRITE, "0000000000000007.seg.tmp", 2 * BLOCK, BLOCK}, /* the group, if any */
        {TAPE_SYNC, "0000000000000007.seg.tmp", 0, 0},
        {TAPE_RENAME, "0000000000000007.seg", 0, 0},
        {TAPE_SYNC_DIR, "wal", 0, 0},
    };
    static uint8_t group[BLOCK];

    memset(group, 'g', sizeof group);
    for (int with_group = 0; with_group < 2; with_group++) {
        struct levee_slice g = slice_of(with_group ? group : NULL, with_group ? BLOCK : 0);
        open_machine(1);
        tape_start(io);
        ck_assert_int_eq(create_and_publish(g), LEVEE_OK);
        size_t at = 0;
        for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
            if (!with_group && i == 3) {
                continue;
            }
            ck_assert_uint_lt(at, tape.count);
            ck_assert_int_eq(tape.events[at].kind, steps[i].kind);
            ck_assert_str_eq(tape.events[at].name, steps[i].name);
            ck_assert_uint_eq(tape.events[at].offset, steps[i].offset);
            ck_assert_uint_eq(tape.events[at].len, steps[i].len);
            at++;
        }
        ck_assert_uint_eq(at, tape.count);
        holds_sample(g);
        close_machine();
    }
}
END_TEST

/* Zeros are written in pieces; a size that is no multiple of the piece must not be exceeded. */
START_TEST(large_segments_are_filled_to_the_byte)
{
    struct wal_segment_header h = with_context(sample);
    struct io_file *f;
    uint64_t filled = 0;

    open_machine(1);
    tape_start(io);
    h.size = (5u << 20) / 2;
    ck_assert_int_eq(wal_segment_create(io, WAL_DIR, &h, slice_of(NULL, 0), &f, &err), LEVEE_OK);
    for (size_t i = 0; i < tape.count; i++) {
        if (tape.events[i].kind == TAPE_WRITE && tape.events[i].len != 2 * BLOCK) {
            ck_assert_uint_eq(tape.events[i].offset, filled);
            filled += tape.events[i].len;
        }
    }
    ck_assert_uint_eq(filled, h.size);
    io->ops->close(f);
    close_machine();
}
END_TEST

/* Whatever fails is said; before the rename nothing is left behind. */
START_TEST(every_failing_step_is_reported)
{
    static const struct {
        enum tape_kind kind;
        size_t skip;
        size_t left; /* files */
    } steps[] = {
        {TAPE_CREATE, 0, 0}, {TAPE_WRITE, 0, 0},  {TAPE_WRITE, 1, 0},    {TAPE_WRITE, 2, 0},
        {TAPE_SYNC, 0, 0},   {TAPE_RENAME, 0, 1}, {TAPE_SYNC_DIR, 0, 1},
    };

    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        open_machine(1);
        tape_start(io);
        tape_fail(steps[i].kind, "", LEVEE_EIO, steps[i].skip);
        ck_assert_int_eq(create_and_publish(slice_str("group")), LEVEE_EIO);
        ck_assert_int_eq(tape.fail_kind, TAPE_NONE);
        ck_assert_uint_eq(files_in_dir(), steps[i].left);
        close_machine();
    }
}
END_TEST

START_TEST(a_full_disk_leaves_nothing_behind)
{
    struct sim_faults full = {.seed = 1, .capacity_bytes = SIZE / 2};

    open_machine(1);
    io_sim_set_faults(io, &full);
    ck_assert_int_eq(create_and_publish(slice_of(NULL, 0)), LEVEE_ENOSPACE);
    ck_assert_uint_eq(files_in_dir(), 0);
    full.capacity_bytes = SIZE;
    io_sim_set_faults(io, &full);
    ck_assert_int_eq(create_and_publish(slice_of(NULL, 0)), LEVEE_OK);
    holds_sample(slice_of(NULL, 0));
    close_machine();
}
END_TEST

START_TEST(no_memory_leaves_nothing_behind)
{
    uint64_t k = 0;
    int code;

    open_machine(1);
    do {
        mem_fail_at(++k);
        code = create_and_publish(slice_of(NULL, 0));
        mem_fail_at(0);
        ck_assert(code == LEVEE_OK || code == LEVEE_ENOMEM);
    } while (code != LEVEE_OK);
    ck_assert_uint_gt(k, 3);
    holds_sample(slice_of(NULL, 0));
    close_machine();
}
END_TEST

START_TEST(a_path_that_is_too_long_is_refused)
{
    static char deep[IO_PATH_MAX];
    struct wal_segment_header h = with_context(sample);
    struct io_file *f = NULL;

    open_machine(1);
    /* Room for the segment's name, not for its temporary one; then for neither. */
    for (size_t room = 20; room < 24; room++) {
        memset(deep, 'd', sizeof deep);
        deep[0] = '/';
        deep[IO_PATH_MAX - 2 - room] = '\0';
        ck_assert_int_eq(wal_segment_create(io, deep, &h, slice_of(NULL, 0), &f, &err),
                         LEVEE_ELIMIT);
        ck_assert_int_eq(wal_segment_publish(io, deep, 7, false, &err), LEVEE_ELIMIT);
    }
    close_machine();
}
END_TEST

/* W5, power loss at every step with every fate of unsynced bytes: under its name a segment is
 * whole, and once creation has returned it is there. */
START_TEST(a_power_loss_leaves_no_half_made_segment_under_its_name)
{
    static const uint32_t fates[][2] = {{0, 0}, {1000, 0}, {500, 300}};
    int found = 0, missing = 0, finished = 0;
    char path[IO_PATH_MAX];
    uint64_t size;

    segment_path(path, sample.number);
    for (size_t fate = 0; fate < ARRAY_LEN(fates); fate++) {
        for (uint64_t step = 1;; step++) {
            struct sim_faults faults = {.seed = step * 31 + fate,
                                        .keep_per_mille = fates[fate][0],
                                        .garble_per_mille = fates[fate][1],
                                        .crash_at_step = step};
            open_machine(1);
            io_sim_set_faults(io, &faults);
            int code = create_and_publish(slice_of(NULL, 0));
            bool done = !io_sim_crashed(io);
            ck_assert_int_eq(code, done ? LEVEE_OK : LEVEE_ECRASHED);
            io_sim_power_loss(io);
            if (io_sim_bytes(io, path, &size)) {
                holds_sample(slice_of(NULL, 0));
                found++;
            } else {
                ck_assert(!done);
                missing++;
            }
            close_machine();
            if (done) {
                finished++;
                break;
            }
        }
    }
    ck_assert_int_eq(finished, 3);
    ck_assert_int_gt(found, finished); /* a rename survived without its directory sync */
    ck_assert_int_gt(missing, 9);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal_segment");
    TCase *t = tcase_create("header");

    tcase_add_test(t, names_are_sixteen_hex_digits);
    tcase_add_test(t, every_field_of_the_header_lies_where_the_readme_says);
    tcase_add_test(t, a_good_header_is_read);
    tcase_add_test(t, any_flipped_bit_of_one_copy_is_repaired_from_the_other);
    tcase_add_test(t, of_two_different_good_copies_the_first_one_counts);
    tcase_add_test(t, an_unreadable_or_cut_copy_is_a_bad_one);
    tcase_add_test(t, a_newer_format_is_told_from_damage);
    tcase_add_test(t, what_is_no_fact_about_the_disk_is_an_error);
    suite_add_tcase(suite, t);
    t = tcase_create("creation");
    tcase_add_test(t, creation_goes_step_by_step);
    tcase_add_test(t, large_segments_are_filled_to_the_byte);
    tcase_add_test(t, every_failing_step_is_reported);
    tcase_add_test(t, a_full_disk_leaves_nothing_behind);
    tcase_add_test(t, no_memory_leaves_nothing_behind);
    tcase_add_test(t, a_path_that_is_too_long_is_refused);
    tcase_add_test(t, a_power_loss_leaves_no_half_made_segment_under_its_name);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
