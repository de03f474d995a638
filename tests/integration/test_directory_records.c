/*
 * What the directory source makes of a file's bytes: the formats, gzip, files larger than every
 * buffer, files that are cut off by a process death, that change, vanish or are damaged. What must
 * be seen is written down, or counted by the test itself.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if LEVEE_WITH_ZLIB
#include <zlib.h>
#endif

#include "tests/integration/test_directory_rig.h"

static struct files_rig rig;

START_TEST(records_of_a_fixed_size)
{
    files_begin(&rig);
    rig.source.format = LEVEE_FILE_FIXED;
    rig.source.record_bytes = 3;
    files_put_text(&rig, "a", "abcdef\ng");
    files_put_text(&rig, "b", "");
    rig.source.on_trouble = LEVEE_FILE_SKIP;
    files_up(&rig);
    files_must_see(&rig, "abc|def|"); /* and two bytes too many */
    files_wait_told(&rig, LEVEE_ERECORD_DAMAGED);
    files_put_text(&rig, "c", "xyz");
    files_must_see(&rig, "abc|def|xyz|");
    ck_assert_uint_eq(files_status(&rig).skipped, 1);
    files_end(&rig);
}
END_TEST

START_TEST(records_with_a_length_before_them)
{
    static const char bytes[] = "\0\0\0\3one\0\0\0\0\0\0\0\5three\0\1\0\0";
    struct levee_error err = {0};

    files_begin(&rig);
    rig.source.format = LEVEE_FILE_LENGTH;
    rig.source.record_max = 1000;
    files_put(&rig, "a", bytes, sizeof bytes - 5);
    files_up(&rig);
    files_must_see(&rig, "one||three|");
    files_drain(&rig);
    files_put(&rig, "b", bytes, sizeof bytes - 1); /* and a length beyond record_max */
    files_must_stop(&rig, LEVEE_ERECORD_TOO_LONG, &err);
    ck_assert_ptr_nonnull(strstr(err.where, "/in/b, offset 20"));
    files_end(&rig);
    files_begin(&rig);
    rig.source.format = LEVEE_FILE_LENGTH;
    files_put(&rig, "c", bytes, sizeof bytes - 6); /* cut inside a record */
    files_must_stop(&rig, LEVEE_ERECORD_DAMAGED, &err);
    ck_assert_str_eq(err.expected, "9 bytes");
    ck_assert_str_eq(err.found, "8");
    files_end(&rig);
}
END_TEST

START_TEST(whole_files_are_values_and_their_paths_are_keys)
{
    struct levee_error err = {0};

    files_begin(&rig);
    rig.source.format = LEVEE_FILE_WHOLE;
    rig.source.record_max = 20;
    files_put_text(&rig, "a", "one\ntwo\n");
    files_put_text(&rig, "b", "");
    files_put_text(&rig, "c", "12345678901234567890");
    files_up(&rig);
    files_must_see(&rig, "a=one\ntwo\n|b=|c=12345678901234567890|");
    files_kill(&rig);
    files_put_text(&rig, "d", "123456789012345678901");
    files_must_stop(&rig, LEVEE_ERECORD_TOO_LONG, &err);
    ck_assert_str_eq(files_seen(), "a=one\ntwo\n|b=|c=12345678901234567890|");
    files_end(&rig);
}
END_TEST

/* ---- files larger than every buffer ---- */

#define LINES 8000

/* LINES numbered lines of 30 to 60 bytes; release with free. */
static char *many_lines(size_t *ret_len)
{
    char *text = malloc((size_t)LINES * 64), *at = text;

    MUST(text != NULL);
    for (int i = 0; i < LINES; i++) {
        at += sprintf(at, "line %06d %0*d\n", i, 20 + i * 7 % 30, 0);
    }
    *ret_len = (size_t)(at - text);
    return text;
}

/* The lines as the sink must have seen them, each once and in order. */
static void must_have_seen_all(const char *text, size_t len)
{
    char *want = malloc(len + 1);

    memcpy(want, text, len);
    want[len] = 0;
    for (size_t i = 0; i < len; i++) {
        want[i] = want[i] == '\n' ? '|' : want[i];
    }
    ck_assert(strcmp(files_seen(), want) == 0);
    free(want);
}

static void tight(struct files_rig *r)
{
    r->options.buffer_bytes = 16 << 10;
    r->options.batch_interval_ms = 20;
    r->options.segment_bytes = 256 << 10;
}

START_TEST(a_file_larger_than_all_buffers_goes_through_in_bounded_memory)
{
    size_t len;
    char *text = many_lines(&len);
    struct levee_metrics m;

    files_begin(&rig);
    tight(&rig);
    files_put(&rig, "big", text, len);
    ck_assert_uint_gt(len, 20 * rig.options.buffer_bytes);
    files_up(&rig);
    files_wait_seen(&rig, LINES);
    must_have_seen_all(text, len);
    levee_context_metrics(rig.ctx, &m);
    /* One append of at most 64 KiB is let in when nothing is held. */
    ck_assert_uint_lt(m.buffered_bytes_max, rig.options.buffer_bytes + (400 << 10));
    free(text);
    files_end(&rig);
}
END_TEST

START_TEST(a_file_is_resumed_behind_the_last_durable_record)
{
    size_t len, kills = 0;
    char *text = many_lines(&len);

    files_begin(&rig);
    tight(&rig);
    files_put(&rig, "big", text, len);
    while (files_seen_count() < LINES) {
        size_t before = files_seen_count();
        files_up(&rig);
        files_wait_seen(&rig, before + 1 < LINES ? before + 1 : LINES);
        files_kill(&rig);
        kills++;
    }
    must_have_seen_all(text, len);
    ck_assert_uint_gt(kills, 3);
    free(text);
    files_end(&rig);
}
END_TEST

/* A life that ends in the middle of the file "big"; another file waits behind it. */
static char *half_read(size_t *ret_len)
{
    char *text = many_lines(ret_len);

    files_begin(&rig);
    tight(&rig);
    files_put(&rig, "big", text, *ret_len);
    files_up(&rig);
    files_wait_seen(&rig, 1);
    files_kill(&rig);
    ck_assert_uint_lt(files_seen_count(), LINES);
    files_put_text(&rig, "next", "next\n");
    return text;
}

static void must_go_on_with_next(int told)
{
    rig.source.on_trouble = LEVEE_FILE_SKIP;
    files_up(&rig);
    files_wait_told(&rig, told);
    while (!strstr(files_seen(), "|next|")) {
        files_wait_seen(&rig, files_seen_count() + 1);
    }
    ck_assert_uint_lt(files_seen_count(), LINES);
    ck_assert_uint_eq(files_status(&rig).skipped, 1);
    files_kill(&rig);
    files_up(&rig); /* it is remembered: nothing of that file comes, and nothing is told again */
    int before = files_told(told);
    files_put_text(&rig, "last", "last\n");
    while (!strstr(files_seen(), "|last|")) {
        files_wait_seen(&rig, files_seen_count() + 1);
    }
    ck_assert_int_eq(files_told(told), before);
}

START_TEST(a_file_that_vanished_half_read_is_a_typed_error_or_skipped)
{
    struct levee_error err = {0};
    size_t len;

    char *text = half_read(&len);
    ck_assert_int_eq(unlink(files_path(&rig, "big")), 0);
    files_must_stop(&rig, LEVEE_EFILE_MISSING, &err);
    ck_assert_ptr_nonnull(strstr(err.where, "/in/big, offset "));
    files_must_stop(&rig, LEVEE_EFILE_MISSING, &err); /* again: nothing was decided */
    must_go_on_with_next(LEVEE_EFILE_MISSING);
    free(text);
    files_end(&rig);
}
END_TEST

START_TEST(a_file_that_changed_half_read_is_a_typed_error_or_skipped)
{
    struct levee_error err = {0};
    size_t len;

    char *text = half_read(&len);
    files_append(&rig, "big", "more\n");
    files_must_stop(&rig, LEVEE_EFILE_CHANGED, &err);
    ck_assert_ptr_nonnull(strstr(err.where, "/in/big"));
    must_go_on_with_next(LEVEE_EFILE_CHANGED);
    free(text);
    files_end(&rig);
    text = half_read(&len); /* of the same size, other bytes where we were */
    memset(text, 'y', len - 1);
    files_put(&rig, "big", text, len);
    files_must_stop(&rig, LEVEE_EFILE_CHANGED, &err);
    files_end(&rig);
    free(text);
}
END_TEST

START_TEST(a_half_read_file_that_was_renamed_or_copied_back_is_read_on)
{
    size_t len;

    char *text = half_read(&len);
    ck_assert_int_eq(unlink(files_path(&rig, "next")), 0);
    ck_assert_int_eq(rename(files_path(&rig, "big"), files_path(&rig, "moved")), 0);
    files_up(&rig);
    files_wait_seen(&rig, LINES);
    must_have_seen_all(text, len);
    free(text);
    files_end(&rig);
    text = half_read(&len);
    ck_assert_int_eq(unlink(files_path(&rig, "next")), 0);
    ck_assert_int_eq(unlink(files_path(&rig, "big")), 0);
    files_put(&rig, "big", text, len);
    files_up(&rig);
    files_wait_seen(&rig, LINES);
    must_have_seen_all(text, len);
    free(text);
    files_end(&rig);
}
END_TEST

START_TEST(a_file_that_changes_while_it_is_read_stops_there)
{
    size_t len;
    struct levee_error err = {0};
    char *text = many_lines(&len);

    files_begin(&rig);
    tight(&rig);
    rig.options.batch_interval_ms = 200;
    files_put(&rig, "big", text, len);
    files_up(&rig);
    FILES_WAIT(&rig, bytes, 1);
    files_append(&rig, "big", "more\n");
    ck_assert_int_eq(levee_await_for(rig.ctx, 20000, &err), LEVEE_EFILE_CHANGED);
    ck_assert_ptr_nonnull(strstr(err.where, "/in/big, offset "));
    ck_assert_uint_lt(files_seen_count(), LINES);
    free(text);
    files_end(&rig);
}
END_TEST

START_TEST(a_file_that_was_read_may_be_removed)
{
    struct levee_error err = {0};

    files_begin(&rig);
    files_put_text(&rig, "a", "1\n");
    files_up(&rig);
    files_must_see(&rig, "1|");
    FILES_WAIT(&rig, ledger_commits, 2); /* its end is written down */
    ck_assert_int_eq(unlink(files_path(&rig, "a")), 0);
    files_kill(&rig);
    files_up(&rig);
    files_put_text(&rig, "b", "2\n");
    files_must_see(&rig, "1|2|");
    ck_assert_int_eq(levee_await_for(rig.ctx, 1, &err), LEVEE_ETIMEOUT);
    ck_assert_int_eq(files_told(LEVEE_EFILE_MISSING), 0);
    files_end(&rig);
}
END_TEST

START_TEST(a_line_that_is_too_long_takes_no_memory_beyond_its_limit)
{
    size_t len = 3 << 20;
    char *text = malloc(len);
    struct levee_error err = {0};

    memset(text, 'x', len);
    memcpy(text, "ok\n", 3);
    files_begin(&rig);
    rig.source.record_max = 64 << 10;
    files_put(&rig, "a", text, len);
    files_must_stop(&rig, LEVEE_ERECORD_TOO_LONG, &err);
    ck_assert_ptr_nonnull(strstr(err.where, "/in/a, offset 3"));
    rig.source.on_trouble = LEVEE_FILE_SKIP;
    files_up(&rig);
    files_must_see(&rig, "ok|"); /* what lies before it is not lost */
    files_wait_told(&rig, LEVEE_ERECORD_TOO_LONG);
    free(text);
    files_end(&rig);
}
END_TEST

START_TEST(files_are_dealt_to_partitions_in_turns_and_keep_their_order)
{
    files_begin(&rig);
    rig.source.partitions = 2;
    files_put_text(&rig, "a", "a1\na2\n");
    files_put_text(&rig, "b", "b1\nb2\n");
    files_put_text(&rig, "c", "c1\n");
    files_up(&rig);
    files_wait_seen(&rig, 5);
    const char *seen = files_seen();
    ck_assert(strstr(seen, "a1|a2|") && strstr(seen, "b1|b2|") && strstr(seen, "c1|"));
    ck_assert(strstr(seen, "a2|") < strstr(seen, "c1|")); /* the same partition */
    files_end(&rig);
}
END_TEST

/* ---- gzip ---- */

#if LEVEE_WITH_ZLIB
static size_t pack(const char *text, size_t len, uint8_t *out, size_t cap)
{
    z_stream z = {0};

    MUST(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    z.next_in = (Bytef *)(uintptr_t)text;
    z.avail_in = (uInt)len;
    z.next_out = out;
    z.avail_out = (uInt)cap;
    MUST(deflate(&z, Z_FINISH) == Z_STREAM_END);
    size_t n = cap - z.avail_out;
    (void)deflateEnd(&z);
    return n;
}

START_TEST(gzip_files_are_unpacked_member_by_member)
{
    uint8_t bytes[500] = {0};

    files_begin(&rig);
    rig.source.keys = true;
    size_t n = pack("one\ntw", 6, bytes, 200);
    n += pack("o\nthree", 7, bytes + n, 200);
    files_put(&rig, "a.gz", bytes, n);
    files_put(&rig, "b.gz", bytes, n + 20); /* zeros behind it */
    files_put(&rig, "c.gz", "", 0);
    files_put_text(&rig, "d", "plain\n");
    files_up(&rig);
    files_must_see(&rig, "a.gz=one|a.gz=two|a.gz=three|b.gz=one|b.gz=two|b.gz=three|d=plain|");
    files_end(&rig);
}
END_TEST

START_TEST(a_packed_file_larger_than_all_buffers_is_resumed_and_the_next_ones_follow)
{
    size_t len;
    char *text = many_lines(&len);
    uint8_t *bytes = malloc(len);
    size_t n = pack(text, len / 2, bytes, len), kills = 0;

    n += pack(text + len / 2, len - len / 2, bytes + n, len - n);
    files_begin(&rig);
    tight(&rig);
    files_put(&rig, "big.gz", bytes, n);
    files_put_text(&rig, "next", "next\n");
    n = pack("last\n", 5, bytes, len);
    files_put(&rig, "next2.gz", bytes, n);
    files_put_text(&rig, "next3", "done\n");
    while (files_seen_count() < LINES + 3) {
        size_t before = files_seen_count();
        files_up(&rig);
        files_wait_seen(&rig, before + 1);
        files_kill(&rig);
        kills++;
    }
    ck_assert_uint_gt(kills, 3);
    text = realloc(text, len + 20);
    len += (size_t)sprintf(text + len, "next\nlast\ndone\n");
    must_have_seen_all(text, len);
    free(text);
    free(bytes);
    files_end(&rig);
}
END_TEST

START_TEST(damaged_gzip_data_stop_the_context_or_are_skipped)
{
    uint8_t bytes[400];
    struct levee_error err = {0};
    size_t n = pack("a line\nand another\n", 19, bytes, sizeof bytes);

    for (int how = 0; how < 3; how++) {
        uint8_t bad[400];
        memcpy(bad, bytes, n);
        bad[n - 6] ^= how == 0; /* its checksum */
        bad[0] ^= how == 1;     /* no gzip at all */
        files_begin(&rig);
        files_put(&rig, "a.gz", bad, how == 2 ? n - 9 : n); /* cut off */
        files_must_stop(&rig, LEVEE_ERECORD_DAMAGED, &err);
        ck_assert_ptr_nonnull(strstr(err.where, "/in/a.gz, offset "));
        rig.source.on_trouble = LEVEE_FILE_SKIP;
        files_put_text(&rig, "b", "fine\n");
        files_up(&rig);
        while (!strstr(files_seen(), "fine|")) {
            files_wait_seen(&rig, files_seen_count() + 1);
        }
        files_end(&rig);
    }
}
END_TEST
#endif

int main(void)
{
    Suite *s = suite_create("directory_records");
    TCase *t = tcase_create("records");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, records_of_a_fixed_size);
    tcase_add_test(t, records_with_a_length_before_them);
    tcase_add_test(t, whole_files_are_values_and_their_paths_are_keys);
    tcase_add_test(t, a_file_larger_than_all_buffers_goes_through_in_bounded_memory);
    tcase_add_test(t, a_file_is_resumed_behind_the_last_durable_record);
    tcase_add_test(t, a_file_that_vanished_half_read_is_a_typed_error_or_skipped);
    tcase_add_test(t, a_file_that_changed_half_read_is_a_typed_error_or_skipped);
    tcase_add_test(t, a_half_read_file_that_was_renamed_or_copied_back_is_read_on);
    tcase_add_test(t, a_file_that_changes_while_it_is_read_stops_there);
    tcase_add_test(t, a_file_that_was_read_may_be_removed);
    tcase_add_test(t, a_line_that_is_too_long_takes_no_memory_beyond_its_limit);
    tcase_add_test(t, files_are_dealt_to_partitions_in_turns_and_keep_their_order);
#if LEVEE_WITH_ZLIB
    tcase_add_test(t, gzip_files_are_unpacked_member_by_member);
    tcase_add_test(t, a_packed_file_larger_than_all_buffers_is_resumed_and_the_next_ones_follow);
    tcase_add_test(t, damaged_gzip_data_stop_the_context_or_are_skipped);
#endif
    suite_add_tcase(s, t);
    return suite_main(s);
}
