/*
 * What is installed is complete: `make install` into a directory of its own, then a program outside
 * the tree is built with nothing but pkg-config, against the shared and the static library, and
 * run. Shown for the word count of examples/ and for a context that starts, counts and drains.
 */
#include "tests/support/suite.h"

#include <stdio.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char root[256], tree[512];

static const char program[] =
    "#include <levee/levee.h>\n"
    "#include <string.h>\n"
    "static levee_stream *words;\n"
    "static long counted;\n"
    "static int see(levee_batch *b, const struct levee_token *t, void *arg,\n"
    "               struct levee_error *err)\n"
    "{\n"
    "    (void)t; (void)arg; (void)err;\n"
    "    counted += (long)levee_batch_count(b);\n"
    "    return 0;\n"
    "}\n"
    "static int build(levee_context *ctx, void *arg, struct levee_error *err)\n"
    "{\n"
    "    (void)arg;\n"
    "    words = levee_queue_source(ctx, \"words\", 1);\n"
    "    levee_foreach_batch(words, \"see\", see, NULL);\n"
    "    return levee_context_status(ctx, err);\n"
    "}\n"
    "int main(int argc, char **argv)\n"
    "{\n"
    "    levee_context *ctx = NULL;\n"
    "    struct levee_error err;\n"
    "    struct levee_record r = {.value = levee_text(\"word\")};\n"
    "    struct levee_options o = {.directory = argv[argc - 1], .batch_interval_ms = 10};\n"
    "    int code = levee_get_or_create(&ctx, &o, build, NULL, &err);\n"
    "    code = code ? code : levee_start(ctx, &err);\n"
    "    if (!code) {\n"
    "        do { /* the source is started by the context's own thread */\n"
    "            code = levee_queue_push(words, &r, 1, 1, &err);\n"
    "        } while (code == LEVEE_EINVALID);\n"
    "    }\n"
    "    code = code ? code : levee_drain(ctx, 0, &err);\n"
    "    code = code ? code : levee_await(ctx, &err);\n"
    "    levee_free(ctx);\n"
    "    if (code) {\n"
    "        return levee_print_error(stderr, &err);\n"
    "    }\n"
    "    printf(\"%ld %d\\n\", counted, levee_version() >> 16 == LEVEE_VERSION_MAJOR);\n"
    "    return 0;\n"
    "}\n";

/* Runs a command line in `root`; its output is shown when it fails. */
static void must_run(const char *command)
{
    char line[4096], text[2000];

    (void)snprintf(line, sizeof line, "cd '%s' && { %s ; } >'%s/said' 2>&1", root, command, root);
    int status = system(line); /* a shell is what users have */ // NOLINT(cert-env33-c)
    if (status != 0) {
        (void)snprintf(line, sizeof line, "%s/said", root);
        FILE *f = fopen(line, "r");
        size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
        text[n] = '\0';
        if (f) {
            (void)fclose(f);
        }
        ck_abort_msg("%s: status %d: %s", command, status, text);
    }
}

static void install(void)
{
    char command[2048];
    const char *tmp = getenv("TMPDIR"), *build = getenv("BUILD");
    const char *mode = build ? strrchr(build, '/') : NULL;

    (void)snprintf(root, sizeof root, "%s/levee-install-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(root));
    ck_assert_ptr_nonnull(getcwd(tree, sizeof tree));
    /* Without what an outer make hands down: its jobs, its targets. */
    (void)snprintf(command, sizeof command,
                   "env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS make -C '%s' -s install MODE=%s "
                   "PREFIX=/opt/levee DESTDIR='%s'",
                   tree, mode ? mode + 1 : "release", root);
    must_run(command);
    (void)snprintf(command, sizeof command, "%s/program.c", root);
    FILE *f = fopen(command, "w");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(program, 1, sizeof program - 1, f), sizeof program - 1);
    ck_assert_int_eq(fclose(f), 0);
}

static void remove_all(void)
{
    char command[300];

    (void)snprintf(command, sizeof command, "rm -rf '%s'", root);
    ck_assert_int_eq(system(command), 0); // NOLINT(cert-env33-c)
}

/* pkg-config as it would be used were DESTDIR the root. */
#define PKG_CONFIG                                                                                 \
    "PKG_CONFIG_PATH=$PWD/opt/levee/lib/pkgconfig pkg-config "                                     \
    "--define-variable=prefix=$PWD/opt/levee"

static bool sanitized(void)
{
    const char *build = getenv("BUILD");

    return build && (strstr(build, "san") || strstr(build, "cov"));
}

START_TEST(a_program_outside_the_tree_builds_against_the_shared_library)
{
    if (sanitized()) {
        return; /* no shared library is made in these modes */
    }
    install();
    must_run("cc -std=c11 -Wall -Wextra -Werror program.c -o shared "
             "$(" PKG_CONFIG " --cflags --libs levee)");
    must_run("LD_LIBRARY_PATH=$PWD/opt/levee/lib ./shared state >out && grep -qx '1 1' out");
    must_run("LD_LIBRARY_PATH=$PWD/opt/levee/lib ldd ./shared | grep -q \"liblevee.so.* => $PWD\"");
    remove_all();
}
END_TEST

START_TEST(a_program_outside_the_tree_builds_against_the_static_library)
{
    if (sanitized()) {
        return; /* its runtime would have to be linked too */
    }
    install();
    must_run("rm -f opt/levee/lib/liblevee.so*");
    must_run("cc -std=c11 -Wall -Wextra -Werror program.c -o static "
             "$(" PKG_CONFIG " --static --cflags --libs levee)");
    must_run("./static state >out && grep -qx '1 1' out");
    must_run("! ldd ./static | grep -q liblevee");
    remove_all();
}
END_TEST

START_TEST(an_example_builds_outside_the_tree)
{
    char command[1200];

    if (sanitized()) {
        return;
    }
    install();
    (void)snprintf(
        command, sizeof command,
        "cp '%s/examples/network_wordcount.c' . && cc -std=c11 -D_POSIX_C_SOURCE=200809L "
        "network_wordcount.c -o example $(" PKG_CONFIG " --cflags --libs levee)",
        tree);
    must_run(command);
    must_run("LD_LIBRARY_PATH=$PWD/opt/levee/lib ./example; test $? -eq 1"); /* its usage */
    remove_all();
}
END_TEST

START_TEST(the_headers_are_fit_for_cplusplus)
{
    if (sanitized()) {
        return;
    }
    install();
    must_run("for h in levee error connect testing; do echo \"#include <levee/$h.h>\"; done >h.cc; "
             "echo 'int main() { return levee_version() == 0; }' >>h.cc; "
             "command -v c++ >/dev/null || exit 0; "
             "c++ -std=c++11 -Wall -Wextra -Werror -Wno-missing-field-initializers h.cc -o h "
             "$(" PKG_CONFIG " --cflags --libs levee) && LD_LIBRARY_PATH=$PWD/opt/levee/lib ./h");
    remove_all();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("install");
    TCase *t = tcase_create("outside the tree");

    tcase_set_timeout(t, 120);
    tcase_add_test(t, a_program_outside_the_tree_builds_against_the_shared_library);
    tcase_add_test(t, a_program_outside_the_tree_builds_against_the_static_library);
    tcase_add_test(t, an_example_builds_outside_the_tree);
    tcase_add_test(t, the_headers_are_fit_for_cplusplus);
    suite_add_tcase(s, t);
    return suite_main(s);
}
