/* base/error.c: the table is sound, texts are cut and never overrun, codes survive without a
 * struct. */
#include "base/base.h"
#include "tests/support/suite.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static const int codes[] = {
#define CODE(name, value, class_, text, todo) LEVEE_E##name,
    LEVEE_ERRORS(CODE)
#undef CODE
};

START_TEST(every_code_has_a_name_class_text_and_advice_of_its_own)
{
    for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
        ck_assert_int_lt(codes[i], 0);
        ck_assert_int_ne(levee_error_class(codes[i]), LEVEE_CLASS_OK);
        ck_assert_str_ne(levee_error_name(codes[i]), "UNKNOWN");
        ck_assert_uint_gt(strlen(levee_error_text(codes[i])), 4);
        ck_assert_uint_gt(strlen(levee_error_advice(codes[i])), 4);
        for (size_t j = 0; j < i; j++) {
            ck_assert_int_ne(codes[i], codes[j]);
            ck_assert_str_ne(levee_error_name(codes[i]), levee_error_name(codes[j]));
        }
    }
}
END_TEST

START_TEST(codes_and_classes_are_frozen)
{
    /* Callers store and compare these; a change breaks programs in the field. */
    ck_assert_int_eq(LEVEE_ENOMEM, -1);
    ck_assert_int_eq(LEVEE_ENOSPACE, -5);
    ck_assert_int_eq(LEVEE_EDIR_BUSY, -52);
    ck_assert_int_eq(LEVEE_EWAL_CORRUPT, -100);
    ck_assert_int_eq(LEVEE_ECKPT_CORRUPT, -200);
    ck_assert_int_eq(LEVEE_ESINK_AHEAD, -300);
    ck_assert_str_eq(levee_error_name(LEVEE_EWAL_CORRUPT), "WAL_CORRUPT");
    ck_assert_int_eq(levee_error_class(LEVEE_OK), LEVEE_CLASS_OK);
    ck_assert_int_eq(levee_error_class(LEVEE_EFULL), LEVEE_CLASS_RETRY);
    ck_assert_int_eq(levee_error_class(LEVEE_EDIR_BUSY), LEVEE_CLASS_REFUSED);
    ck_assert_int_eq(levee_error_class(LEVEE_EWAL_CORRUPT), LEVEE_CLASS_CORRUPT);
    ck_assert_int_eq(levee_error_class(LEVEE_EWAL_FAILED), LEVEE_CLASS_FATAL);
    ck_assert_int_eq(levee_error_class(LEVEE_ESTOPPED), LEVEE_CLASS_STOPPED);
}
END_TEST

START_TEST(a_code_that_does_not_exist_is_misuse)
{
    const int strangers[] = {1, -9999, INT_MAX, INT_MIN};

    for (size_t i = 0; i < ARRAY_LEN(strangers); i++) {
        ck_assert_int_eq(levee_error_class(strangers[i]), LEVEE_CLASS_MISUSE);
        ck_assert_str_eq(levee_error_name(strangers[i]), "UNKNOWN");
        ck_assert_ptr_nonnull(levee_error_text(strangers[i]));
        ck_assert_ptr_nonnull(levee_error_advice(strangers[i]));
    }
}
END_TEST

START_TEST(setting_an_error_forgets_the_one_before)
{
    struct levee_error err;

    memset(&err, 0x5a, sizeof err);
    ck_assert_int_eq(err_sys(&err, LEVEE_EWAL_FAILED, EIO, "sync of %s", "a"), LEVEE_EWAL_FAILED);
    ck_assert_int_eq(err.sys_errno, EIO);
    ck_assert_int_eq(err_where(&err, "segment %d", 7), LEVEE_EWAL_FAILED);
    ck_assert_int_eq(err_expected(&err, "%x", 0x1f), LEVEE_EWAL_FAILED);
    ck_assert_int_eq(err_found(&err, "%x", 0x9c), LEVEE_EWAL_FAILED);
    ck_assert_str_eq(err.where, "segment 7");
    ck_assert_str_eq(err.expected, "1f");
    ck_assert_str_eq(err.found, "9c");

    ck_assert_int_eq(err_set(&err, LEVEE_EINVALID, "no %s", "name"), LEVEE_EINVALID);
    ck_assert_int_eq(err.code, LEVEE_EINVALID);
    ck_assert_int_eq(err.sys_errno, 0);
    ck_assert_str_eq(err.what, "no name");
    ck_assert_str_eq(err.where, "");
    ck_assert_str_eq(err.expected, "");
    ck_assert_str_eq(err.found, "");
}
END_TEST

START_TEST(errno_decides_what_input_output_error_means)
{
    const struct {
        int sys_errno, code;
    } cases[] = {
        {ENOSPC, LEVEE_ENOSPACE}, {EDQUOT, LEVEE_ENOSPACE}, {EFBIG, LEVEE_ENOSPACE},
        {EACCES, LEVEE_EACCESS},  {EPERM, LEVEE_EACCESS},   {EROFS, LEVEE_EACCESS},
        {ENOMEM, LEVEE_ENOMEM},   {EIO, LEVEE_EIO},         {ENXIO, LEVEE_EIO},
    };
    struct levee_error err;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int e = cases[i].sys_errno;

        ck_assert_int_eq(err_sys(&err, LEVEE_EIO, e, "write of x"), cases[i].code);
        ck_assert_int_eq(err.code, cases[i].code);
        ck_assert_int_eq(err.sys_errno, e);
        ck_assert_ptr_nonnull(strstr(err.what, "write of x: "));
        ck_assert_ptr_nonnull(strstr(err.what, strerror(e)));
        /* A code that says more than "I/O" is kept. */
        ck_assert_int_eq(err_sys(&err, LEVEE_EWAL_FAILED, e, "sync"), LEVEE_EWAL_FAILED);
    }
}
END_TEST

START_TEST(without_a_struct_the_code_still_comes_back)
{
    ck_assert_int_eq(err_set(NULL, LEVEE_ENOTFOUND, "x"), LEVEE_ENOTFOUND);
    ck_assert_int_eq(err_where(NULL, "y"), LEVEE_ENOTFOUND);
    ck_assert_int_eq(err_sys(NULL, LEVEE_EIO, ENOSPC, "x"), LEVEE_ENOSPACE);
    ck_assert_int_eq(err_expected(NULL, "y"), LEVEE_ENOSPACE);
    ck_assert_int_eq(err_found(NULL, "y"), LEVEE_ENOSPACE);
    ck_assert_int_eq(err_context(NULL, "y"), LEVEE_ENOSPACE);
    ck_assert_int_eq(err_nomem(NULL, 5), LEVEE_ENOMEM);
    err_clear(NULL);
    const struct levee_error from = {.code = LEVEE_ELIMIT};
    err_copy(NULL, &from);
    ck_assert_int_eq(err_where(NULL, "y"), LEVEE_ELIMIT);
}
END_TEST

START_TEST(copy_and_clear)
{
    struct levee_error a, b;

    err_nomem(&a, 77);
    ck_assert_ptr_nonnull(strstr(a.what, "77"));
    err_copy(&b, &a);
    ck_assert_int_eq(b.code, LEVEE_ENOMEM);
    ck_assert_str_eq(b.what, a.what);
    err_clear(&b);
    ck_assert_int_eq(b.code, LEVEE_OK);
    ck_assert_str_eq(b.what, "");
}
END_TEST

/* A text of n times c. */
static const char *repeated(char c, size_t n)
{
    static char text[4096];

    ck_assert_uint_lt(n, sizeof text);
    memset(text, c, n);
    text[n] = '\0';
    return text;
}

START_TEST(long_texts_are_cut_with_dots)
{
    struct levee_error err;

    for (size_t n = 0; n < 600; n++) {
        size_t room = sizeof err.what - 1;

        memset(&err, 0x5a, sizeof err);
        err_set(&err, LEVEE_EINVALID, "%s", repeated('x', n));
        ck_assert_uint_eq(strlen(err.what), n < room ? n : room);
        ck_assert_int_eq(n > room, strstr(err.what, "...") != NULL);
        err_expected(&err, "%s", repeated('y', n));
        room = sizeof err.expected - 1;
        ck_assert_uint_eq(strlen(err.expected), n < room ? n : room);
        ck_assert_str_eq(err.found, "");
    }
}
END_TEST

START_TEST(context_goes_in_front_and_never_pushes_the_failure_out)
{
    struct levee_error err;

    err_set(&err, LEVEE_EWAL_CORRUPT, "checksum mismatch");
    err_context(&err, "segment %d", 12);
    err_context(&err, "recovery");
    ck_assert_str_eq(err.what, "recovery: segment 12: checksum mismatch");
    for (size_t n = 0; n < 600; n++) {
        err_set(&err, LEVEE_EWAL_CORRUPT, "checksum mismatch");
        ck_assert_int_eq(err_context(&err, "%s", repeated('x', n)), LEVEE_EWAL_CORRUPT);
        ck_assert_uint_lt(strlen(err.what), sizeof err.what);
        ck_assert_str_eq(err.what + strlen(err.what) - 19, ": checksum mismatch");
    }
    /* No room at all: the failure alone stays. */
    err_set(&err, LEVEE_EWAL_CORRUPT, "%s", repeated('x', 250));
    err_context(&err, "recovery");
    ck_assert_str_eq(err.what, repeated('x', 250));
}
END_TEST

START_TEST(an_error_may_be_built_from_its_own_text)
{
    struct levee_error err;

    err_set(&err, LEVEE_EIO, "inner");
    err_set(&err, LEVEE_EIO, "outer (%s)", err.what);
    ck_assert_str_eq(err.what, "outer (inner)");
}
END_TEST

START_TEST(format_names_everything_on_one_line)
{
    struct levee_error err;
    char line[2048];

    err_set(&err, LEVEE_EWAL_CORRUPT, "checksum\nmismatch\x1b[2J");
    err_where(&err, "wal/12:4096");
    err_expected(&err, "1f");
    err_found(&err, "9c");
    ck_assert_ptr_eq(levee_error_format(&err, line, sizeof line), line);
    ck_assert_ptr_nonnull(strstr(line, "WAL_CORRUPT: checksum?mismatch?[2J"));
    ck_assert_ptr_nonnull(strstr(line, "wal/12:4096"));
    ck_assert_ptr_nonnull(strstr(line, "expected: 1f"));
    ck_assert_ptr_nonnull(strstr(line, "found: 9c"));
    ck_assert_ptr_nonnull(strstr(line, levee_error_advice(LEVEE_EWAL_CORRUPT)));
    ck_assert_ptr_null(strchr(line, '\n'));

    /* An error with a code alone speaks in general words. */
    err = (struct levee_error){.code = LEVEE_EFULL};
    levee_error_format(&err, line, sizeof line);
    ck_assert_ptr_nonnull(strstr(line, levee_error_text(LEVEE_EFULL)));
    ck_assert_ptr_null(strstr(line, "expected"));
    ck_assert_str_eq(levee_error_format(NULL, line, sizeof line), "OK: no error");
    ck_assert_ptr_null(levee_error_format(&err, NULL, 10));
}
END_TEST

START_TEST(format_stays_inside_any_buffer)
{
    struct levee_error err;
    char whole[2048];

    err_set(&err, LEVEE_EWAL_CORRUPT, "checksum mismatch");
    err_where(&err, "here");
    levee_error_format(&err, whole, sizeof whole);
    for (size_t size = 1; size < 300; size++) {
        char *exact = malloc(size); /* ASan watches its end */

        ck_assert_ptr_nonnull(exact);
        levee_error_format(&err, exact, size);
        size_t len = strlen(whole) < size - 1 ? strlen(whole) : size - 1;
        ck_assert_uint_eq(strlen(exact), len);
        ck_assert_int_eq(memcmp(exact, whole, len), 0);
        free(exact);
    }
    char untouched = 'u';
    levee_error_format(&err, &untouched, 0);
    ck_assert_int_eq(untouched, 'u');
}
END_TEST

START_TEST(exit_codes_follow_the_class)
{
    const struct {
        int code, exit_code;
    } cases[] = {
        {LEVEE_OK, 0},         {LEVEE_ESTOPPED, 0},    {LEVEE_EINVALID, 1}, {LEVEE_EDIR_BUSY, 2},
        {LEVEE_ECKPT_NONE, 3}, {LEVEE_EWAL_FAILED, 4}, {LEVEE_EFULL, 5},    {-9999, 1},
    };
    FILE *f = tmpfile();
    char line[256];

    ck_assert_ptr_nonnull(f);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const struct levee_error err = {.code = cases[i].code, .what = "the \n text"};

        ck_assert_int_eq(levee_print_error(f, &err), cases[i].exit_code);
        ck_assert_int_eq(levee_print_error(NULL, &err), cases[i].exit_code);
    }
    rewind(f);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        ck_assert_ptr_nonnull(fgets(line, sizeof line, f));
        ck_assert_ptr_nonnull(strstr(line, levee_error_name(cases[i].code)));
        ck_assert_ptr_nonnull(strstr(line, "the ? text"));
    }
    ck_assert_ptr_null(fgets(line, sizeof line, f));
    ck_assert_int_eq(levee_print_error(NULL, NULL), 0);
    fclose(f);
}
END_TEST

START_TEST(a_broken_invariant_aborts)
{
    int holds = _i; /* not a constant, which the compiler would see through */

    ASSERT(holds == 1);
}
END_TEST

START_TEST(an_invariant_that_holds_does_nothing)
{
    int evaluated = 0;

    ASSERT(++evaluated == 1);
    ck_assert_int_eq(evaluated, 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("base_error");
    TCase *tc = tcase_create("error");

    tcase_add_test(tc, every_code_has_a_name_class_text_and_advice_of_its_own);
    tcase_add_test(tc, codes_and_classes_are_frozen);
    tcase_add_test(tc, a_code_that_does_not_exist_is_misuse);
    tcase_add_test(tc, setting_an_error_forgets_the_one_before);
    tcase_add_test(tc, errno_decides_what_input_output_error_means);
    tcase_add_test(tc, without_a_struct_the_code_still_comes_back);
    tcase_add_test(tc, copy_and_clear);
    tcase_add_test(tc, long_texts_are_cut_with_dots);
    tcase_add_test(tc, context_goes_in_front_and_never_pushes_the_failure_out);
    tcase_add_test(tc, an_error_may_be_built_from_its_own_text);
    tcase_add_test(tc, format_names_everything_on_one_line);
    tcase_add_test(tc, format_stays_inside_any_buffer);
    tcase_add_test(tc, exit_codes_follow_the_class);
    tcase_add_loop_test_raise_signal(tc, a_broken_invariant_aborts, SIGABRT, 0, 1);
    tcase_add_test(tc, an_invariant_that_holds_does_nothing);
    suite_add_tcase(suite, tc);
    return suite_main(suite);
}
