/*
 * The examples as a user runs them: network_wordcount against a server of the test's, and
 * custom_receiver with SIGKILLs in the middle (process death). kafka_wordcount is what test_demo
 * and test_demo_kafka kill. Expected totals are counted here.
 */
#include <arpa/inet.h>
#include <stdbool.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/suite.h"

#define WORDS       7
#define PATIENCE_MS 20000

static char root[128];

static void make_root(void)
{
    const char *tmp = getenv("TMPDIR");

    (void)snprintf(root, sizeof root, "%s/levee-examples-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(root));
}

static void remove_root(void)
{
    char command[200];

    ck_assert_ptr_nonnull(strstr(root, "levee-examples-"));
    (void)snprintf(command, sizeof command, "rm -rf '%s'", root);
    ck_assert_int_eq(system(command), 0); /* NOLINT(cert-env33-c): a folder of our own making */
}

static const char *program(const char *name)
{
    static char path[4096];
    char here[1024];
    const char *build = getenv("BUILD");

    build = build && *build ? build : "build/release";
    ck_assert_ptr_nonnull(getcwd(here, sizeof here));
    (void)snprintf(path, sizeof path, "%s%s%s/examples/%s", build[0] == '/' ? "" : here,
                   build[0] == '/' ? "" : "/", build, name);
    return path;
}

/* In root, with stdout and stderr in root/log. */
static pid_t spawn(const char *const *args)
{
    pid_t pid = fork();

    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        if (chdir(root) != 0) {
            _exit(126);
        }
        int log = open("log", O_WRONLY | O_CREAT | O_APPEND, 0644);
        (void)dup2(log, STDOUT_FILENO);
        (void)dup2(log, STDERR_FILENO);
        execv(args[0], (char *const *)(uintptr_t)args);
        _exit(127);
    }
    return pid;
}

/* ---- network_wordcount ---- */

/* Whether root/log holds every one of these lines. */
static bool log_has(const char *const *lines, size_t n)
{
    char path[200], line[512];
    size_t found = 0;
    bool seen[8] = {false};

    (void)snprintf(path, sizeof path, "%s/log", root);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        for (size_t i = 0; i < n; i++) {
            if (!seen[i] && strstr(line, lines[i])) {
                seen[i] = true;
                found++;
            }
        }
    }
    if (f) {
        (void)fclose(f);
    }
    return found == n;
}

START_TEST(network_wordcount_counts_what_a_server_sends)
{
    static const char *const wanted[] = {"Time: ", "to", "be", "or", "not"};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    char port[16];
    int server = socket(AF_INET, SOCK_STREAM, 0);

    make_root();
    ck_assert_int_eq(bind(server, (struct sockaddr *)&a, sizeof a), 0);
    ck_assert_int_eq(listen(server, 4), 0);
    ck_assert_int_eq(getsockname(server, (struct sockaddr *)&a, &len), 0);
    (void)snprintf(port, sizeof port, "%u", ntohs(a.sin_port));
    const char *args[] = {program("network_wordcount"), "127.0.0.1", port, NULL};
    pid_t pid = spawn(args);
    struct pollfd p = {.fd = server, .events = POLLIN};
    ck_assert_int_eq(poll(&p, 1, PATIENCE_MS), 1);
    int client = accept(server, NULL, NULL);
    static const char text[] = "to be or not to be\n";
    ck_assert_int_eq(write(client, text, sizeof text - 1), (ssize_t)(sizeof text - 1));
    bool shown = false;
    for (int i = 0; i < PATIENCE_MS / 20 && !shown; i++) {
        shown = log_has(wanted + 1, 4);
        (void)poll(NULL, 0, 20);
    }
    ck_assert(shown);
    (void)kill(pid, SIGKILL);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    close(client);
    close(server);
    remove_root();
}
END_TEST

/* ---- custom_receiver ---- */

#define LINES 3000

static const char *const words[WORDS] = {"log", "sync", "ack", "batch", "state", "sink", "levee"};

static void write_journal(int64_t totals[WORDS])
{
    char path[200];
    uint64_t x = 12345;

    (void)snprintf(path, sizeof path, "%s/journal", root);
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    for (unsigned i = 1; i <= LINES; i++) {
        (void)fprintf(f, "%u", i);
        for (unsigned w = 0; w < 5; w++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            unsigned word = (unsigned)((x >> 33) % WORDS);
            totals[word]++;
            (void)fprintf(f, " %s", words[word]);
        }
        (void)fputc('\n', f);
    }
    ck_assert_int_eq(fclose(f), 0);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* The last total of each word over all batch files; totals of a word must rise. */
static void read_totals(int64_t got[WORDS])
{
    struct dirent **names = NULL;
    char path[512], line[128];

    (void)snprintf(path, sizeof path, "%s/out", root);
    int n = scandir(path, &names, NULL, by_name);
    for (int i = 0; i < n; i++) {
        (void)snprintf(path, sizeof path, "%s/out/%s", root, names[i]->d_name);
        FILE *f = strstr(names[i]->d_name, ".txt") ? fopen(path, "r") : NULL;
        while (f && fgets(line, sizeof line, f)) {
            char *tab = strchr(line, '\t');
            ck_assert_ptr_nonnull(tab);
            *tab = '\0';
            for (unsigned w = 0; w < WORDS; w++) {
                if (strcmp(line, words[w]) == 0) {
                    int64_t total = strtoll(tab + 1, NULL, 10);
                    ck_assert_int_gt(total, got[w]);
                    got[w] = total;
                }
            }
        }
        if (f) {
            (void)fclose(f);
        }
        free(names[i]);
    }
    free(names);
}

static uint64_t acknowledged(void)
{
    char path[200];
    uint64_t n = 0;

    (void)snprintf(path, sizeof path, "%s/acknowledged", root);
    FILE *f = fopen(path, "r");
    if (f) {
        if (fscanf(f, "%" SCNu64, &n) != 1) {
            n = 0; /* killed between opening and writing: the next one says it */
        }
        (void)fclose(f);
    }
    return n;
}

START_TEST(custom_receiver_counts_each_line_once_through_kills)
{
    int64_t want[WORDS] = {0}, got[WORDS] = {0};
    int status = 0;

    make_root();
    write_journal(want);
    const char *args[] = {
        program("custom_receiver"), "journal", "acknowledged", "state", "out", NULL};
    for (unsigned kills = 0; kills < 6; kills++) {
        uint64_t before = acknowledged();
        pid_t pid = spawn(args);
        for (int i = 0; i < PATIENCE_MS && waitpid(pid, &status, WNOHANG) == 0; i++) {
            if (acknowledged() > before + 40 * kills) {
                (void)kill(pid, SIGKILL);
            }
            (void)poll(NULL, 0, 1);
        }
    }
    pid_t pid = spawn(args);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
    read_totals(got);
    for (unsigned w = 0; w < WORDS; w++) {
        ck_assert_int_eq(got[w], want[w]);
    }
    ck_assert_uint_eq(acknowledged(), LINES);
    remove_root();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("examples");
    TCase *c = tcase_create("examples");

    tcase_add_test(c, network_wordcount_counts_what_a_server_sends);
    tcase_add_test(c, custom_receiver_counts_each_line_once_through_kills);
    suite_add_tcase(s, c);
    return suite_main(s);
}
