/*
 * Damage in the log → a typed refusal that names the place, or provably no harm. Never a wrong
 * count, never silence.
 *
 * Goal: P4 for every kind of damage at rest that the catalogue names for the log. Method: a history
 * on the simulated disk, killed; one thing is damaged; the next start is judged: either it refuses
 * and leaves every byte as it was, or everything acknowledged is still there and every batch is
 * right. Where the damage can be undone, it is, and the run goes on to its end. Loss: none beyond
 * the damage itself (a process death before it).
 */
#include "tests/fault/lab.h"
#include "tests/fault/numbered.h"

#include <string.h>

#define HISTORY 240

static struct lab lab;

/* The n-th data frame from the end (0: the last) with its segment's path. */
static struct wal_entry frame_from_end(size_t n, const char **ret_path)
{
    static char path[IO_PATH_MAX];
    struct wal_facts facts;

    lab_scan(&lab, &facts);
    ck_assert_uint_gt(facts.entry_count, n);
    struct wal_entry e = facts.entries[facts.entry_count - 1 - n];
    ck_assert_int_eq(io_path(path, LAB_WAL, facts.segments[e.segment].name, NULL), LEVEE_OK);
    wal_facts_release(&facts);
    *ret_path = path;
    return e;
}

/* A frame of the given type in the first half of the log. */
static struct wal_entry early_frame(uint16_t type, const char **ret_path)
{
    static char path[IO_PATH_MAX];
    struct wal_facts facts;
    struct wal_entry found = {0};

    lab_scan(&lab, &facts);
    for (size_t i = facts.entry_count / 3; i < facts.entry_count && !found.lsn; i++) {
        if (facts.entries[i].type == type) {
            found = facts.entries[i];
            ck_assert_int_eq(io_path(path, LAB_WAL, facts.segments[found.segment].name, NULL),
                             LEVEE_OK);
        }
    }
    wal_facts_release(&facts);
    ck_assert_uint_ne(found.lsn, 0);
    *ret_path = path;
    return found;
}

/* Flips, must be refused with the segment's name, flips back, goes on to the end. */
static void flip_is_refused(const char *path, uint64_t offset, int code)
{
    uint64_t size;
    uint8_t *bytes = lab_bytes(&lab, path, &size);

    ck_assert_uint_lt(offset, size);
    bytes[offset] ^= 0x20;
    lab_must_refuse(&lab, code, strrchr(path, '/') + 1);
    lab_bytes(&lab, path, &size)[offset] ^= 0x20;
    lab_must_finish(&lab);
}

/* ---- 51-54: damage in acknowledged frames ---- */

START_TEST(f51_flip_in_the_middle_of_the_log_is_refused)
{
    static const uint16_t types[] = {WAL_BLOCK, WAL_BATCH_OPEN, WAL_BATCH_RESULT};
    const char *path;

    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        lab_open(&lab, 51 + i);
        lab_history(&lab, HISTORY, false, true);
        struct wal_entry e = early_frame(types[i], &path);
        flip_is_refused(path, e.offset + WAL_FRAME_HEADER + e.len / 2, LEVEE_EWAL_CORRUPT);
        lab_close(&lab);
    }
}
END_TEST

START_TEST(f52_flip_in_the_last_frame_of_an_idle_log_is_refused)
{
    const char *path;

    lab_open(&lab, 52);
    lab_history(&lab, HISTORY, false, true);
    struct wal_entry e = frame_from_end(0, &path);
    flip_is_refused(path, e.offset + WAL_FRAME_HEADER, LEVEE_EWAL_CORRUPT);
    lab_close(&lab);
}
END_TEST

START_TEST(f53_damaged_length_is_refused_before_it_is_used)
{
    static const uint32_t lengths[] = {0, 1, 65536, 0x7fffffff, 0x80000000, 0xffffffff};
    const char *path;

    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        uint64_t size;
        uint8_t old[4];
        lab_open(&lab, 530 + i);
        lab_history(&lab, HISTORY, false, true);
        struct wal_entry e = early_frame(WAL_BLOCK, &path);
        /* The length is found in the header by its value, so the test needs no offset. */
        uint8_t *h = lab_bytes(&lab, path, &size) + e.offset;
        size_t at = 0;
        while (at + 4 <= WAL_FRAME_HEADER && get_le32(h + at) != e.len) {
            at += 4;
        }
        ck_assert_uint_lt(at, WAL_FRAME_HEADER);
        memcpy(old, h + at, 4);
        put_le32(h + at, lengths[i]);
        lab_must_refuse(&lab, LEVEE_EWAL_CORRUPT, NULL);
        memcpy(lab_bytes(&lab, path, &size) + e.offset + at, old, 4);
        lab_must_finish(&lab);
        lab_close(&lab);
    }
}
END_TEST

START_TEST(f54_zeroed_block_in_acknowledged_data_is_refused)
{
    uint8_t saved[4096];
    const char *path;
    uint64_t size;

    lab_open(&lab, 54);
    lab_history(&lab, HISTORY, false, true);
    struct wal_entry e = early_frame(WAL_BLOCK, &path);
    uint64_t block = e.offset / 4096 * 4096;
    memcpy(saved, lab_bytes(&lab, path, &size) + block, sizeof saved);
    memset(lab_bytes(&lab, path, &size) + block, 0, sizeof saved);
    lab_must_refuse(&lab, LEVEE_EWAL_CORRUPT, NULL);
    memcpy(lab_bytes(&lab, path, &size) + block, saved, sizeof saved);
    lab_must_finish(&lab);
    lab_close(&lab);
}
END_TEST

/* ---- 30, 31: writes that went elsewhere, or twice ---- */

START_TEST(f30_misdirected_write_is_refused_at_the_place_it_hit)
{
    uint8_t saved[4096];
    const char *path;
    uint64_t size;

    lab_open(&lab, 30);
    lab_history(&lab, HISTORY, false, true);
    struct wal_entry victim = early_frame(WAL_BLOCK, &path);
    char victim_path[IO_PATH_MAX];
    (void)snprintf(victim_path, sizeof victim_path, "%s", path);
    struct wal_entry from = frame_from_end(3, &path);
    uint8_t *target = lab_bytes(&lab, victim_path, &size) + victim.offset / 4096 * 4096;
    memcpy(saved, target, sizeof saved);
    memcpy(target, lab_bytes(&lab, path, &size) + from.offset / 4096 * 4096, sizeof saved);
    lab_must_refuse(&lab, LEVEE_EWAL_CORRUPT, NULL);
    memcpy(lab_bytes(&lab, victim_path, &size) + victim.offset / 4096 * 4096, saved, sizeof saved);
    lab_must_finish(&lab);
    lab_close(&lab);
}
END_TEST

START_TEST(f31_an_old_group_again_behind_the_end_is_not_read)
{
    struct wal_facts facts;
    char path[IO_PATH_MAX];
    uint64_t size;

    lab_open(&lab, 31);
    lab_history(&lab, 30, false, true); /* all in one segment */
    lab_scan(&lab, &facts);
    const struct wal_segment *s = &facts.segments[0];
    ck_assert(!s->spare);
    ck_assert_int_eq(io_path(path, LAB_WAL, s->name, NULL), LEVEE_OK);
    uint8_t *bytes = lab_bytes(&lab, path, &size);
    ck_assert_uint_le(s->end_offset + 4096, size);
    memcpy(bytes + s->end_offset, bytes + WAL_HEADER_BYTES, 4096);
    wal_facts_release(&facts);
    lab_must_finish(&lab);
    lab_close(&lab);
}
END_TEST

/* ---- 29, 32, 33, 35, 55, 56: what the file system lost, added or renamed ---- */

static const char *second_segment(void)
{
    ck_assert_uint_ge(lab_file_count(&lab, LAB_WAL, ".seg"), 4);
    return lab_file(&lab, LAB_WAL, ".seg", 1);
}

static void truncate_file(const char *path, uint64_t size)
{
    struct io_file *f;

    ck_assert_int_eq(lab.io->ops->open(lab.io, path, IO_WRITE, &f, &lab.err), LEVEE_OK);
    ck_assert_int_eq(lab.io->ops->truncate(f, size, &lab.err), LEVEE_OK);
    ck_assert_int_eq(lab.io->ops->sync(f, &lab.err), LEVEE_OK);
    lab.io->ops->close(f);
}

/* Any refusal that says the log is damaged or misses something. */
static void must_refuse_log(void)
{
    uint64_t before = lab_hash(&lab);
    int code = lab_start(&lab);

    ck_assert_msg(code == LEVEE_EWAL_CORRUPT || code == LEVEE_EWAL_GAP, "started with %s",
                  levee_error_name(code));
    ck_assert_uint_eq(lab_hash(&lab), before);
    ck_assert_msg(lab.err.where[0] || lab.err.expected[0], "%s", lab.err.what);
}

START_TEST(f32_a_segment_shorter_than_synced_is_refused)
{
    lab_open(&lab, 32);
    lab_history(&lab, HISTORY, false, true);
    const char *path = second_segment();
    lab_copy(&lab, path, "copy");
    truncate_file(path, 24 << 10);
    must_refuse_log();
    lab_copy(&lab, "copy", path);
    lab_must_finish(&lab);
    lab_close(&lab);
}
END_TEST

START_TEST(f33_zeros_behind_the_end_are_a_clean_end)
{
    lab_open(&lab, 33);
    lab_history(&lab, 60, false, true);
    for (int i = 0; i < (int)lab_file_count(&lab, LAB_WAL, ".seg"); i++) {
        const char *path = lab_file(&lab, LAB_WAL, ".seg", i);
        uint64_t size;
        (void)lab_bytes(&lab, path, &size);
        truncate_file(path, size + 12288);
    }
    lab_must_finish(&lab);
    lab_close(&lab);
}
END_TEST

START_TEST(f55_a_segment_missing_in_the_middle_is_refused)
{
    lab_open(&lab, 55);
    lab_history(&lab, HISTORY, false, true);
    const char *path = second_segment();
    lab_copy(&lab, path, "copy");
    lab_remove(&lab, path);
    must_refuse_log();
    lab_copy(&lab, "copy", path);
    lab_must_finish(&lab);
    lab_close(&lab);
}
END_TEST

START_TEST(f55_segments_that_changed_names_are_refused)
{
    lab_open(&lab, 551);
    lab_history(&lab, HISTORY, false, true);
    char a[IO_PATH_MAX], b[IO_PATH_MAX];
    (void)snprintf(a, sizeof a, "%s", lab_file(&lab, LAB_WAL, ".seg", 1));
    (void)snprintf(b, sizeof b, "%s", lab_file(&lab, LAB_WAL, ".seg", 2));
    for (int i = 0; i < 2; i++) { /* the second time puts it right again */
        ck_assert_int_eq(lab.io->ops->rename(lab.io, a, "swap", &lab.err), LEVEE_OK);
        ck_assert_int_eq(lab.io->ops->rename(lab.io, b, a, &lab.err), LEVEE_OK);
        ck_assert_int_eq(lab.io->ops->rename(lab.io, "swap", b, &lab.err), LEVEE_OK);
        if (i == 0) {
            must_refuse_log();
        }
    }
    lab_must_finish(&lab);
    lab_close(&lab);
}
END_TEST

START_TEST(f55_a_segment_twice_is_refused_or_void)
{
    lab_open(&lab, 552);
    lab_history(&lab, HISTORY, false, true);
    lab_copy(&lab, second_segment(), LAB_WAL "/00000000000000ff.seg");
    int code = lab_start(&lab);
    if (code == LEVEE_OK) {
        lab_must_finish(&lab);
    } else {
        ck_assert_msg(code == LEVEE_EWAL_CORRUPT || code == LEVEE_EWAL_GAP, "%s",
                      levee_error_name(code));
        lab_remove(&lab, LAB_WAL "/00000000000000ff.seg");
        lab_must_finish(&lab);
    }
    lab_close(&lab);
}
END_TEST

/* The newest checkpoint names the durable LSN it knew: a log that ends below it has lost its end
 * (R8). */
static void lose_end(bool whole_segments)
{
    struct wal_facts facts;

    lab_history(&lab, HISTORY, true, true);
    lab_scan(&lab, &facts);
    for (size_t i = facts.segment_count; i-- > 0;) {
        char path[IO_PATH_MAX];
        ck_assert_int_eq(io_path(path, LAB_WAL, facts.segments[i].name, NULL), LEVEE_OK);
        if (facts.segments[i].spare) {
            continue;
        }
        if (whole_segments) {
            lab_remove(&lab, path);
        } else { /* the first one on the boundary of its second group */
            truncate_file(path, WAL_HEADER_BYTES + (i == 0 ? 4096 : 0));
        }
    }
    wal_facts_release(&facts);
    must_refuse_log();
}

START_TEST(f35_newest_segments_that_vanished_are_missed)
{
    lab_open(&lab, 35);
    lose_end(true);
    lab_close(&lab);
}
END_TEST

START_TEST(f56_a_log_cut_on_a_frame_boundary_is_missed)
{
    lab_open(&lab, 56);
    lose_end(false);
    lab_close(&lab);
}
END_TEST

/* A device that confirms syncs and keeps nothing. What can be known locally is refused; what cannot
 * shows at the sender, whose numbers have a gap. */
START_TEST(f29_records_lost_by_a_lying_device_are_missed_by_their_sender)
{
    unsigned refused = 0, missed = 0;

    for (uint64_t seed = 1; seed <= 40; seed++) {
        lab_open(&lab, 2900 + seed);
        lab_must_start(&lab);
        lab_send(&lab, 30);
        ck_assert(lab_settle(&lab));
        lab_faults(&lab, (struct sim_faults){.lying_sync = true,
                                             .keep_per_mille = (uint32_t)(seed % 4) * 250});
        lab_send(&lab, 30 + seed);
        (void)lab_settle(&lab);
        lab_power_loss(&lab);
        lab_faults(&lab, (struct sim_faults){0});
        int code = lab_start(&lab);
        if (code) {
            enum levee_class class_ = levee_error_class(code);
            ck_assert_msg(class_ == LEVEE_CLASS_CORRUPT || class_ == LEVEE_CLASS_REFUSED, "%s",
                          levee_error_name(code));
            refused++;
        } else if (lab.pushed < lab.acked) {
            struct levee_record r = {.value = slice_str("1 1 ")};
            ck_assert_int_eq(levee_queue_push(lab.source, &r, 1, lab.acked + 1, &lab.err),
                             LEVEE_EDATA_MISSING);
            missed++;
        }
        lab_close(&lab);
    }
    ck_assert_uint_gt(refused + missed, 0);
}
END_TEST

/* ---- 57, 58: bytes of another log ---- */

static struct lab other;

START_TEST(f57_frames_of_another_incarnation_behind_the_end_are_stale)
{
    struct wal_facts facts;
    char path[IO_PATH_MAX];
    uint64_t size, from_size;

    lab_open(&other, 571);
    lab_history(&other, 30, false, true);
    lab_open(&lab, 57);
    lab_history(&lab, 30, false, true);
    lab_scan(&lab, &facts);
    const struct wal_segment *s = &facts.segments[0];
    ck_assert_int_eq(io_path(path, LAB_WAL, s->name, NULL), LEVEE_OK);
    uint8_t *bytes = lab_bytes(&lab, path, &size);
    const uint8_t *from = lab_bytes(&other, lab_file(&other, LAB_WAL, ".seg", 0), &from_size);
    ck_assert_uint_le(s->end_offset + 8192, size);
    memcpy(bytes + s->end_offset, from + s->end_offset - 4096, 8192);
    wal_facts_release(&facts);
    levee_sim_free(other.sim);
    lab_must_finish(&lab);
    lab_close(&lab);
}
END_TEST

START_TEST(f58_a_segment_of_another_directory_is_refused)
{
    char path[IO_PATH_MAX];
    struct io_file *f;
    uint64_t size;

    lab_open(&other, 581);
    lab_history(&other, 2 * HISTORY, false, true);
    lab_open(&lab, 58);
    lab_history(&lab, 24, false, true);
    (void)snprintf(path, sizeof path, "%s", lab_file(&other, LAB_WAL, ".seg", -1));
    const uint8_t *bytes = lab_bytes(&other, path, &size);
    ck_assert_int_eq(lab.io->ops->open(lab.io, path, IO_WRITE | IO_CREATE | IO_EXCL, &f, &lab.err),
                     LEVEE_OK);
    struct iovec v = {(void *)(uintptr_t)bytes, (size_t)size};
    ck_assert_int_eq(lab.io->ops->pwritev(f, &v, 1, 0, &lab.err), LEVEE_OK);
    lab.io->ops->close(f);
    levee_sim_free(other.sim);
    lab_must_refuse(&lab, LEVEE_EDIR_FOREIGN, NULL);
    lab_remove(&lab, path);
    lab_must_finish(&lab);
    lab_close(&lab);
}
END_TEST

/* ---- 50: every byte ---- */

/* One flipped bit: refused with a typed error, or every promise holds. */
static void judge_flip(const char *path, uint64_t at, unsigned bit, unsigned *refused)
{
    uint64_t size;

    lab_bytes(&lab, path, &size)[at] ^= (uint8_t)(1u << bit);
    int code = lab_start(&lab);
    if (code) {
        enum levee_class class_ = levee_error_class(code);
        ck_assert_msg(class_ == LEVEE_CLASS_CORRUPT || class_ == LEVEE_CLASS_REFUSED,
                      "%s byte %llu bit %u: %s", path, (unsigned long long)at, bit,
                      levee_error_name(code));
        ++*refused;
        return;
    }
    ck_assert_msg(lab_finish(&lab), "%s byte %llu bit %u: %s", path, (unsigned long long)at, bit,
                  lab.why);
}

/* Each flip needs the same history anew: recovery goes on from it. Zero tails only now and then. */
static void flip_bytes(const char *folder, const char *suffix, int index, uint64_t step,
                       uint64_t *flips)
{
    uint64_t size = 1;
    unsigned refused = 0;

    for (uint64_t at = (uint64_t)index * 3 % step; at < size; at += step) {
        lab_open(&lab, 50);
        lab_history(&lab, 24, true, true);
        char path[IO_PATH_MAX];
        (void)snprintf(path, sizeof path, "%s", lab_file(&lab, folder, suffix, index));
        uint8_t *bytes = lab_bytes(&lab, path, &size);
        uint64_t used = size;
        while (used > 0 && bytes[used - 1] == 0) {
            used--;
        }
        if (at >= used) {
            at = at + 512 > at / step * step ? (at / 512 + 1) * 512 : at;
            if (at >= size) {
                lab_close(&lab);
                break;
            }
        }
        judge_flip(path, at, (unsigned)(at * 5 + 3) % 8, &refused);
        ++*flips;
        lab_close(&lab);
    }
}

START_TEST(f50_one_bit_anywhere_is_detected_or_harmless)
{
    uint64_t step = numbered_full() ? 1 : 61, flips = 0;

    lab_open(&lab, 50);
    lab_history(&lab, 24, true, true);
    int segments = (int)lab_file_count(&lab, LAB_WAL, ".seg");
    int versions = (int)lab_file_count(&lab, LAB_CKPT, ".ckpt");
    lab_close(&lab);
    ck_assert_int_gt(versions, 0);
    flip_bytes(LAB_DIR, "FORMAT", 0, numbered_full() ? 1 : 3, &flips);
    for (int i = 0; i < versions; i++) {
        flip_bytes(LAB_CKPT, ".ckpt", i, step, &flips);
    }
    for (int i = 0; i < segments; i++) {
        flip_bytes(LAB_WAL, ".seg", i, step, &flips);
    }
    numbered_trials("f50_one_bit_anywhere_is_detected_or_harmless", flips);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        f51_flip_in_the_middle_of_the_log_is_refused,
        f52_flip_in_the_last_frame_of_an_idle_log_is_refused,
        f53_damaged_length_is_refused_before_it_is_used,
        f54_zeroed_block_in_acknowledged_data_is_refused,
        f30_misdirected_write_is_refused_at_the_place_it_hit,
        f31_an_old_group_again_behind_the_end_is_not_read,
        f32_a_segment_shorter_than_synced_is_refused,
        f33_zeros_behind_the_end_are_a_clean_end,
        f55_a_segment_missing_in_the_middle_is_refused,
        f55_segments_that_changed_names_are_refused,
        f55_a_segment_twice_is_refused_or_void,
        f35_newest_segments_that_vanished_are_missed,
        f56_a_log_cut_on_a_frame_boundary_is_missed,
        f29_records_lost_by_a_lying_device_are_missed_by_their_sender,
        f57_frames_of_another_incarnation_behind_the_end_are_stale,
        f58_a_segment_of_another_directory_is_refused,
        f50_one_bit_anywhere_is_detected_or_harmless,
    };
    Suite *s = suite_create("damaged log");

    for (size_t i = 0; i < ARRAY_LEN(tests); i++) {
        numbered_add(s, tests[i], numbered_full() ? 3600 : 60);
    }
    return suite_main(s);
}
