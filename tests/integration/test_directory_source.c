/*
 * The directory source on the real disk: which files are seen, when, and how often. Process death
 * is an orderly stop without draining, which recovery treats as one; real SIGKILLs are in
 * tests/fault/test_directory_kills.c, power losses in test_directory_power.c.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/integration/test_directory_rig.h"

static struct files_rig rig;

START_TEST(what_is_there_and_what_is_moved_in_is_read_once_also_after_a_restart)
{
    files_begin(&rig);
    files_put_text(&rig, "b", "3\n4");
    files_put_text(&rig, "a", "1\r\n\n2\n");
    files_up(&rig);
    files_must_see(&rig, "1||2|3|4|");
    files_put_text(&rig, "c", "5\n");
    files_must_see(&rig, "1||2|3|4|5|");
    files_kill(&rig);
    files_up(&rig);
    files_put_text(&rig, "d", "6\n");
    files_must_see(&rig, "1||2|3|4|5|6|");
    files_drain(&rig);
    files_up(&rig);
    files_put_text(&rig, "e", "7\n");
    files_must_see(&rig, "1||2|3|4|5|6|7|");
    ck_assert_uint_eq(files_status(&rig).known, 5);
    ck_assert_uint_eq(files_status(&rig).begun, 1);
    files_end(&rig);
}
END_TEST

START_TEST(old_and_future_time_stamps_do_not_matter)
{
    struct timespec old[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    struct timespec future[2] = {{.tv_sec = 4000000000}, {.tv_sec = 4000000000}};

    files_begin(&rig);
    files_up(&rig);
    FILES_WAIT(&rig, scans, 1);
    files_put_text(&rig, ".old", "old\n"); /* not seen under this name */
    ck_assert_int_eq(utimensat(AT_FDCWD, files_path(&rig, ".old"), old, 0), 0);
    ck_assert_int_eq(rename(files_path(&rig, ".old"), files_path(&rig, "old")), 0);
    files_must_see(&rig, "old|");
    files_put_text(&rig, ".new", "new\n");
    ck_assert_int_eq(utimensat(AT_FDCWD, files_path(&rig, ".new"), future, 0), 0);
    ck_assert_int_eq(rename(files_path(&rig, ".new"), files_path(&rig, "new")), 0);
    files_must_see(&rig, "old|new|");
    files_end(&rig);
}
END_TEST

START_TEST(a_file_that_grows_waits_until_its_writer_has_closed_it)
{
    files_begin(&rig);
    files_up(&rig);
    FILES_WAIT(&rig, scans, 1);
    FILE *f = fopen(files_path(&rig, "slow"), "w");
    ck_assert(f && fputs("one\ntw", f) >= 0 && fflush(f) == 0);
    FILES_WAIT(&rig, waiting, 1);
    files_put_text(&rig, "quick", "q1\n"); /* passes it */
    files_must_see(&rig, "q1|");
    ck_assert_uint_eq(files_status(&rig).waiting, 1);
    ck_assert(fputs("o\nthree\n", f) >= 0 && fclose(f) == 0);
    files_must_see(&rig, "q1|one|two|three|");
    ck_assert_uint_eq(files_status(&rig).waiting, 0);
    files_end(&rig);
}
END_TEST

START_TEST(a_file_rests_before_it_is_begun)
{
    files_begin(&rig);
    rig.source.settle_ms = 300;
    files_up(&rig);
    FILES_WAIT(&rig, scans, 1);
    for (int i = 0; i < 5; i++) { /* a writer that opens it again and again */
        files_append(&rig, "log", "line\n");
        FILES_WAIT(&rig, waiting, 1);
    }
    ck_assert_uint_eq(files_seen_count(), 0);
    files_must_see(&rig, "line|line|line|line|line|");
    ck_assert_uint_eq(files_status(&rig).changed, 0);
    files_end(&rig);
}
END_TEST

START_TEST(a_rename_or_a_second_link_does_not_make_it_another_file)
{
    files_begin(&rig);
    files_put_text(&rig, "a", "1\n");
    files_up(&rig);
    files_must_see(&rig, "1|");
    ck_assert_int_eq(rename(files_path(&rig, "a"), files_path(&rig, "b")), 0);
    ck_assert_int_eq(link(files_path(&rig, "b"), files_path(&rig, "c")), 0);
    files_put_text(&rig, "d", "2\n");
    files_must_see(&rig, "1|2|");
    files_kill(&rig);
    ck_assert_int_eq(rename(files_path(&rig, "d"), files_path(&rig, "e")), 0); /* nobody looks */
    files_up(&rig);
    files_put_text(&rig, "f", "3\n");
    files_must_see(&rig, "1|2|3|");
    ck_assert_uint_eq(files_status(&rig).known, 3);
    files_end(&rig);
}
END_TEST

START_TEST(a_copy_put_back_is_known_and_other_content_under_an_old_name_is_new)
{
    files_begin(&rig);
    files_put_text(&rig, "a", "1\n");
    files_put_text(&rig, "same", "1\n"); /* the same bytes under another name: another file */
    files_up(&rig);
    files_must_see(&rig, "1|1|");
    files_kill(&rig);
    ck_assert_int_eq(unlink(files_path(&rig, "a")), 0);
    files_put_text(&rig, "a", "1\n");    /* restored from a backup: another inode, another time */
    files_put_text(&rig, "same", "2\n"); /* replaced, of the same size */
    files_up(&rig);
    files_must_see(&rig, "1|1|2|");
    files_put_text(&rig, "same", "33\n");
    files_must_see(&rig, "1|1|2|33|");
    ck_assert_uint_eq(files_status(&rig).changed, 0);
    files_end(&rig);
}
END_TEST

START_TEST(a_file_that_is_touched_is_known_by_its_hash)
{
    files_begin(&rig);
    rig.source.rescan_ms = 5;
    files_put_text(&rig, "a", "1\n");
    files_up(&rig);
    files_must_see(&rig, "1|");
    ck_assert_int_eq(utimensat(AT_FDCWD, files_path(&rig, "a"), NULL, 0), 0);
    FILES_WAIT(&rig, scans, files_status(&rig).scans + 2);
    files_put_text(&rig, "b", "2\n");
    files_must_see(&rig, "1|2|");
    ck_assert_uint_eq(files_status(&rig).changed, 0);
    files_end(&rig);
}
END_TEST

START_TEST(a_file_that_changes_after_its_end_is_reported_once)
{
    struct levee_error err = {0};

    files_begin(&rig);
    files_put_text(&rig, "a", "1\n");
    files_up(&rig);
    files_must_see(&rig, "1|");
    files_append(&rig, "a", "more\n");
    files_wait_told(&rig, LEVEE_EFILE_CHANGED);
    files_append(&rig, "a", "and more\n");
    files_put_text(&rig, "b", "2\n");
    files_must_see(&rig, "1|2|");
    files_kill(&rig);
    files_up(&rig);
    files_put_text(&rig, "c", "3\n");
    files_must_see(&rig, "1|2|3|");
    ck_assert_int_eq(files_told(LEVEE_EFILE_CHANGED), 1);
    ck_assert_int_eq(levee_await_for(rig.ctx, 1, &err), LEVEE_ETIMEOUT); /* it lives */
    files_end(&rig);
}
END_TEST

START_TEST(patterns_are_of_names_or_of_paths)
{
    files_begin(&rig);
    rig.source.pattern = "2026-*/*.log";
    rig.source.keys = true;
    ck_assert_int_eq(mkdir(files_path(&rig, "2026-01"), 0700), 0);
    ck_assert_int_eq(mkdir(files_path(&rig, "2025-01"), 0700), 0);
    files_put_text(&rig, "2026-01/a.log", "1\n");
    files_put_text(&rig, "2026-01/a.txt", "no\n");
    files_put_text(&rig, "2025-01/a.log", "no\n");
    files_put_text(&rig, "b.log", "no\n");
    files_up(&rig);
    files_must_see(&rig, "2026-01/a.log=1|");
    ck_assert_int_eq(mkdir(files_path(&rig, "2026-02"), 0700), 0); /* while we look */
    files_put_text(&rig, "2026-02/b.log", "2\n");
    files_must_see(&rig, "2026-01/a.log=1|2026-02/b.log=2|");
    files_end(&rig);
    files_begin(&rig);
    rig.source.pattern = "*.log";
    files_put_text(&rig, "b.txt", "no\n");
    files_put_text(&rig, "b.log.tmp", "no\n");
    files_put_text(&rig, ".b.log", "no\n");
    files_put_text(&rig, "c.log", "3\n");
    files_up(&rig);
    files_must_see(&rig, "3|");
    files_end(&rig);
}
END_TEST

START_TEST(directories_below_are_followed_when_asked)
{
    files_begin(&rig);
    rig.source.recursive = rig.source.keys = true;
    rig.source.pattern = "*.x";
    ck_assert_int_eq(mkdir(files_path(&rig, "d"), 0700), 0);
    ck_assert_int_eq(mkdir(files_path(&rig, "d/e"), 0700), 0);
    ck_assert_int_eq(symlink("..", files_path(&rig, "d/up")), 0); /* a loop */
    files_put_text(&rig, "d/e/1.x", "1\n");
    files_up(&rig);
    files_must_see(&rig, "d/e/1.x=1|");
    files_put_text(&rig, "d/e/2.x", "2\n");
    files_must_see(&rig, "d/e/1.x=1|d/e/2.x=2|");
    /* A whole tree moved in, and one moved about. */
    ck_assert_int_eq(mkdir(files_path(&rig, ".t"), 0700), 0);
    ck_assert_int_eq(mkdir(files_path(&rig, ".t/u"), 0700), 0);
    files_put_text(&rig, ".t/u/3.x", "3\n");
    ck_assert_int_eq(rename(files_path(&rig, ".t"), files_path(&rig, "t")), 0);
    files_must_see(&rig, "d/e/1.x=1|d/e/2.x=2|t/u/3.x=3|");
    ck_assert_int_eq(rename(files_path(&rig, "d/e"), files_path(&rig, "f")), 0);
    files_put_text(&rig, "f/4.x", "4\n");
    files_must_see(&rig, "d/e/1.x=1|d/e/2.x=2|t/u/3.x=3|f/4.x=4|");
    ck_assert_uint_eq(files_status(&rig).known, 4);
    files_end(&rig);
}
END_TEST

START_TEST(a_directory_that_is_missing_is_waited_for)
{
    files_begin(&rig);
    ck_assert_int_eq(rmdir(rig.in), 0);
    files_up(&rig);
    files_wait_told(&rig, LEVEE_ENOTFOUND);
    ck_assert_int_eq(mkdir(rig.in, 0700), 0);
    files_put_text(&rig, "a", "1\n");
    files_must_see(&rig, "1|");
    files_end(&rig);
}
END_TEST

/* Everything stands still while the kernel's queue runs over: the sink waits for the test. */
START_TEST(events_that_the_kernel_drops_lose_no_file)
{
    FILE *f = fopen("/proc/sys/fs/inotify/max_queued_events", "r");
    int max = 0;
    static char line[2000];

    ck_assert(f && fscanf(f, "%d", &max) == 1 && fclose(f) == 0);
    memset(line, 'x', sizeof line - 2);
    line[sizeof line - 2] = '\n';
    files_begin(&rig);
    rig.options.buffer_bytes = 4096;
    rig.options.batch_interval_ms = 700; /* the file takes more than one batch */
    char *big = malloc((size_t)70 * (sizeof line - 1) + 1);
    for (int i = 0; i < 70; i++) {
        memcpy(big + (size_t)i * (sizeof line - 1), line, sizeof line);
    }
    files_up(&rig);
    FILES_WAIT(&rig, scans, 1);
    files_put_text(&rig, "0-big", big);
    free(big);
    FILES_WAIT(&rig, begun, 1);
    for (int i = 0; i < max + 100; i++) {
        char name[2][40];
        (void)snprintf(name[0], sizeof name[0], "%d.tmp", i % 2); /* names that nobody wants */
        (void)snprintf(name[1], sizeof name[1], "%d.tmp", (i + 1) % 2);
        if (i == 0) {
            files_append(&rig, name[0], "");
        }
        MUST(rename(files_path(&rig, name[0]), files_path(&rig, name[1])) == 0);
    }
    ck_assert_uint_eq(files_status(&rig).read, 0); /* so no event was read meanwhile */
    files_put_text(&rig, "1-late", "late\n");
    files_wait_seen(&rig, 71);
    ck_assert_ptr_nonnull(strstr(files_seen(), "|late|"));
    ck_assert_uint_ge(files_status(&rig).lost_events, 1);
    ck_assert_uint_ge(files_status(&rig).scans, 2);
    files_end(&rig);
}
END_TEST

START_TEST(a_run_once_ends_with_the_directory)
{
    struct levee_error err = {0};

    files_begin(&rig);
    rig.options.stop_at_end = true;
    files_put_text(&rig, "a", "1\n2\n");
    files_put_text(&rig, "b", "3\n");
    files_up(&rig);
    ck_assert_int_eq(levee_await(rig.ctx, &err), LEVEE_OK);
    ck_assert_str_eq(files_seen(), "1|2|3|");
    files_kill(&rig);
    files_put_text(&rig, "c", "4\n");
    files_up(&rig);
    ck_assert_int_eq(levee_await(rig.ctx, &err), LEVEE_OK);
    ck_assert_str_eq(files_seen(), "1|2|3|4|");
    files_end(&rig);
}
END_TEST

START_TEST(a_ledger_that_was_lost_is_refused_and_nothing_is_read_twice)
{
    struct levee_error err = {0};
    char path[400];

    files_begin(&rig);
    files_put_text(&rig, "a", "1\n");
    files_up(&rig);
    files_must_see(&rig, "1|");
    files_kill(&rig);
    (void)snprintf(path, sizeof path, "%s/sources/files/files.tail", rig.state);
    ck_assert_int_eq(unlink(path), 0);
    files_must_stop(&rig, LEVEE_ELEDGER, &err);
    ck_assert_ptr_nonnull(strstr(err.where, "sources/files"));
    ck_assert_str_eq(files_seen(), "1|");
    files_end(&rig);
}
END_TEST

static int build_wrong(levee_context *ctx, void *arg, struct levee_error *err)
{
    levee_stream *s = levee_directory_source(ctx, "files", arg);

    ck_assert_ptr_null(s);
    return levee_context_status(ctx, err);
}

START_TEST(options_that_make_no_sense_are_refused)
{
    const struct levee_directory_options bad[] = {
        {.path = NULL},
        {.path = "x", .pattern = "a/*", .recursive = true},
        {.path = "x", .pattern = "/a"},
        {.path = "x", .pattern = "a/"},
        {.path = "x", .format = LEVEE_FILE_FIXED},
        {.path = "x", .record_bytes = 5},
        {.path = "x", .format = (enum levee_file_format)9},
    };

    files_begin(&rig);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct levee_error err = {0};
        struct levee_directory_options o = bad[i];
        ck_assert_int_eq(levee_get_or_create(&rig.ctx, &rig.options, build_wrong, &o, &err),
                         LEVEE_EINVALID);
        ck_assert_ptr_nonnull(strstr(err.where, "test_directory_source.c"));
    }
    files_end(&rig);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("directory_source");
    TCase *t = tcase_create("files");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, what_is_there_and_what_is_moved_in_is_read_once_also_after_a_restart);
    tcase_add_test(t, old_and_future_time_stamps_do_not_matter);
    tcase_add_test(t, a_file_that_grows_waits_until_its_writer_has_closed_it);
    tcase_add_test(t, a_file_rests_before_it_is_begun);
    tcase_add_test(t, a_rename_or_a_second_link_does_not_make_it_another_file);
    tcase_add_test(t, a_copy_put_back_is_known_and_other_content_under_an_old_name_is_new);
    tcase_add_test(t, a_file_that_is_touched_is_known_by_its_hash);
    tcase_add_test(t, a_file_that_changes_after_its_end_is_reported_once);
    tcase_add_test(t, patterns_are_of_names_or_of_paths);
    tcase_add_test(t, directories_below_are_followed_when_asked);
    tcase_add_test(t, a_directory_that_is_missing_is_waited_for);
    tcase_add_test(t, events_that_the_kernel_drops_lose_no_file);
    tcase_add_test(t, a_run_once_ends_with_the_directory);
    tcase_add_test(t, a_ledger_that_was_lost_is_refused_and_nothing_is_read_twice);
    tcase_add_test(t, options_that_make_no_sense_are_refused);
    suite_add_tcase(s, t);
    return suite_main(s);
}
