/*
 * The examples as a user runs them: network_wordcount against a server of the test's, and
 * custom_receiver, stateful_sessions and click_audit with SIGKILLs in the middle (process death,
 * fault 1). kafka_wordcount is what test_demo and test_demo_kafka kill. Expected totals are counted
 * here.
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
#include <sys/stat.h>
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

/* ---- stateful_sessions, click_audit ---- */

#define CLICKS 6000
#define USERS  9

static unsigned files_in(const char *folder)
{
    char path[200];
    unsigned n = 0;

    (void)snprintf(path, sizeof path, "%s/%s", root, folder);
    DIR *d = opendir(path);
    for (const struct dirent *e; d && (e = readdir(d)) != NULL;) {
        n += strstr(e->d_name, ".txt") != NULL;
    }
    if (d) {
        (void)closedir(d);
    }
    return n;
}

/* Runs it again and again, killing it each time once it has written some files more; then to its
 * end, of which root/log tells. */
static void run_through_kills(const char *name, const char *folder)
{
    const char *args[] = {program(name), "clicks", "state", "out", NULL};
    char log[200];
    int status = 0;

    for (unsigned kills = 0; kills < 5; kills++) {
        unsigned before = files_in(folder);
        pid_t pid = spawn(args);
        for (int i = 0; i < PATIENCE_MS && waitpid(pid, &status, WNOHANG) == 0; i++) {
            if (files_in(folder) > before + kills) {
                (void)kill(pid, SIGKILL);
            }
            (void)poll(NULL, 0, 1);
        }
    }
    (void)snprintf(log, sizeof log, "%s/log", root);
    ck_assert_int_eq(truncate(log, 0), 0);
    pid_t pid = spawn(args);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
}

/* Calls take for every line of a folder's files, in their order. */
static void each_line(const char *folder, void (*take)(char *line, void *arg), void *arg)
{
    struct dirent **names = NULL;
    char path[512], line[256];

    (void)snprintf(path, sizeof path, "%s/%s", root, folder);
    int n = scandir(path, &names, NULL, by_name);
    for (int i = 0; i < n; i++) {
        (void)snprintf(path, sizeof path, "%s/%s/%s", root, folder, names[i]->d_name);
        FILE *f = strstr(names[i]->d_name, ".txt") ? fopen(path, "r") : NULL;
        while (f && fgets(line, sizeof line, f)) {
            line[strcspn(line, "\n")] = '\0';
            take(line, arg);
        }
        if (f) {
            (void)fclose(f);
        }
        free(names[i]);
    }
    free(names);
}

static FILE *open_clicks(void)
{
    char path[200];

    (void)snprintf(path, sizeof path, "%s/clicks", root);
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    return f;
}

struct visit { /* a session as the test has it */
    int user;
    int64_t from, to, clicks;
    int page;
    bool seen;
};
struct visits {
    struct visit all[CLICKS];
    size_t n;
};

static void take_session(char *line, void *arg)
{
    struct visits *v = arg;
    int user, page;
    int64_t from, to, clicks;

    ck_assert_int_eq(sscanf(line, "u%d\t%" SCNd64 " %" SCNd64 " %" SCNd64 " /p%d", &user, &from,
                            &to, &clicks, &page),
                     5);
    for (size_t i = 0; i < v->n; i++) {
        struct visit *x = &v->all[i];
        if (x->user == user && x->from == from && x->to == to && x->clicks == clicks &&
            x->page == page) {
            ck_assert_msg(!x->seen, "%s: twice", line);
            x->seen = true;
            return;
        }
    }
    ck_abort_msg("%s: no such session", line);
}

START_TEST(stateful_sessions_come_once_through_kills)
{
    static struct visits v;
    struct visit *open[USERS] = {NULL};
    uint64_t x = 777;
    int64_t now = 1700000000000;

    make_root();
    FILE *f = open_clicks();
    for (unsigned i = 0; i < CLICKS; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        int user = (int)((x >> 33) % USERS), page = (int)((x >> 40) % 5);
        now += (int64_t)((x >> 45) % 8000);
        struct visit *s = open[user];
        if (!s || now - s->to >= 30000) {
            s = open[user] = &v.all[v.n++];
            *s = (struct visit){.user = user, .from = now};
        }
        s->to = now;
        s->clicks++;
        s->page = page;
        (void)fprintf(f, "%" PRId64 " u%d /p%d\n", now, user, page);
    }
    ck_assert_int_eq(fclose(f), 0);
    run_through_kills("stateful_sessions", "out");
    each_line("out", take_session, &v);
    for (size_t i = 0; i < v.n; i++) { /* by a watermark that is the last click's time */
        ck_assert_int_eq(v.all[i].seen, v.all[i].to + 30000 <= now);
    }
    ck_assert_uint_gt(v.n, 500);
    remove_root();
}
END_TEST

/* ---- pi_accumulator ---- */

#define POINTS 20000

START_TEST(pi_counts_every_point_once_through_kills)
{
    char path[200], line[128], expected[3][64];
    uint64_t x = 4711;
    int64_t inside = 0;

    make_root();
    FILE *f = open_clicks();
    for (unsigned i = 0; i < POINTS; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        int64_t a = (int64_t)((x >> 20) % 10000), b = (int64_t)((x >> 42) % 10000);
        inside += a * a + b * b < 100000000;
        (void)fprintf(f, "%" PRId64 " %" PRId64 "\n", a, b);
    }
    ck_assert_int_eq(fclose(f), 0);
    run_through_kills("pi_accumulator", "out");
    (void)snprintf(expected[0], sizeof expected[0], "inside %" PRId64, inside);
    (void)snprintf(expected[1], sizeof expected[1], "points %d", POINTS);
    (void)snprintf(expected[2], sizeof expected[2], "pi is about %.4f",
                   4.0 * (double)inside / POINTS);
    (void)snprintf(path, sizeof path, "%s/log", root);
    f = fopen(path, "r");
    ck_assert_ptr_nonnull(f);
    int found = 0;
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        found += found < 3 && strcmp(line, expected[found]) == 0;
    }
    (void)fclose(f);
    ck_assert_msg(found == 3, "%s is missing", expected[found]);
    remove_root();
}
END_TEST

/* ---- stream_join ---- */

#define SALES 6000
#define ITEMS 5

struct sales {
    int price_before[SALES]; /* of its item, when it was sent */
    int item[SALES];
    bool seen[SALES];
    int last;
};

/* Prices of an item only rise, so a price says how new the list was that the sale's batch saw. */
static void take_sale(char *line, void *arg)
{
    struct sales *s = arg;
    int item, sale, price = 0;
    int got = sscanf(line, "i%d\t%d %d", &item, &sale, &price);

    ck_assert_msg(got >= 2 && sale >= 0 && sale < SALES, "%s", line);
    ck_assert_int_eq(item, s->item[sale]);
    ck_assert_msg(!s->seen[sale], "%s: twice", line);
    s->seen[sale] = true;
    /* Swapped in before the sale was sent, so its batch saw it or a newer one. */
    ck_assert_msg(price >= s->price_before[sale] && price <= s->last, "%s", line);
}

START_TEST(sales_are_joined_once_through_kills)
{
    static struct sales s;
    int price[ITEMS] = {0};
    uint64_t x = 99;

    make_root();
    FILE *f = open_clicks();
    for (int i = 0; i < SALES; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        s.item[i] = (int)((x >> 33) % ITEMS);
        if ((x >> 50) % 40 == 0) {
            price[s.item[i]] = ++s.last;
            (void)fprintf(f, "price i%d %d\n", s.item[i], s.last);
        }
        s.price_before[i] = price[s.item[i]];
        (void)fprintf(f, "i%d %d\n", s.item[i], i);
    }
    ck_assert_int_eq(fclose(f), 0);
    run_through_kills("stream_join", "out");
    each_line("out", take_sale, &s);
    for (int i = 0; i < SALES; i++) {
        ck_assert_msg(s.seen[i], "sale %d is missing", i);
    }
    remove_root();
}
END_TEST

#define MINUTES 200
#define PAGES   3

struct audit {
    int64_t sent[MINUTES][PAGES], counted[MINUTES][PAGES], late[MINUTES][PAGES];
    int64_t late_lines;
};

static void take_count(char *line, void *arg)
{
    struct audit *a = arg;
    int minute, page;
    int64_t clicks;

    ck_assert_int_eq(sscanf(line, "%d /p%d\t%" SCNd64, &minute, &page, &clicks), 3);
    ck_assert(minute < MINUTES && page < PAGES);
    ck_assert_int_gt(clicks, a->counted[minute][page]); /* it replaces what was said before */
    a->counted[minute][page] = clicks;
}

static void take_late(char *line, void *arg)
{
    struct audit *a = arg;
    int64_t ms;
    int key, user, page;

    ck_assert_int_eq(sscanf(line, "/p%d\t%" SCNd64 " u%d /p%d", &key, &ms, &user, &page), 4);
    ck_assert_int_eq(key, page);
    a->late[ms / 60000][page]++;
    a->late_lines++;
}

/* When a line is late depends on what else was in its batch; that it is accounted for, once, does
 * not. */
START_TEST(click_audit_accounts_for_every_line_through_kills)
{
    static struct audit a;
    uint64_t x = 4242;
    int64_t front = 0, strange = 0;
    char path[200], line[512];

    make_root();
    FILE *f = open_clicks();
    for (unsigned i = 0; i < CLICKS; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        front += (int64_t)((x >> 45) % 3000);
        int64_t ms = front - (int64_t)((x >> 35) % 4000);
        ms = (x >> 25) % 50 == 0 ? front / 3 : ms; /* hopeless, if the watermark was told */
        ms = ms > 0 ? ms : 0;
        if ((x >> 30) % 100 == 7) {
            (void)fprintf(f, "no click at all\n");
            strange++;
            continue;
        }
        ck_assert_int_lt(ms / 60000, MINUTES - 10);
        a.sent[ms / 60000][(x >> 50) % PAGES]++;
        (void)fprintf(f, "%" PRId64 " u%u /p%u\n", ms, i % 10, (unsigned)((x >> 50) % PAGES));
    }
    (void)fprintf(f, "%d u1 /p0\n", (MINUTES - 1) * 60000); /* whose minute stays open */
    ck_assert_int_eq(fclose(f), 0);
    (void)snprintf(path, sizeof path, "%s/out", root);
    ck_assert_int_eq(mkdir(path, 0755), 0);
    run_through_kills("click_audit", "out/counts");
    each_line("out/counts", take_count, &a);
    each_line("out/late", take_late, &a);
    for (int m = 0; m < MINUTES; m++) {
        for (int p = 0; p < PAGES; p++) {
            ck_assert_int_eq(a.counted[m][p] + a.late[m][p], a.sent[m][p]);
        }
    }
    ck_assert_int_gt(a.late_lines, 0);
    int64_t letters = 0;
    (void)snprintf(path, sizeof path, "%s/log", root);
    f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        letters += strstr(line, "dead letter: click-time, code -1: no click at all") == line;
    }
    ck_assert_ptr_nonnull(f);
    (void)fclose(f);
    ck_assert_int_eq(letters, strange);
    remove_root();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("examples");
    TCase *c = tcase_create("examples");

    tcase_add_test(c, network_wordcount_counts_what_a_server_sends);
    tcase_add_test(c, custom_receiver_counts_each_line_once_through_kills);
    tcase_add_test(c, stateful_sessions_come_once_through_kills);
    tcase_add_test(c, pi_counts_every_point_once_through_kills);
    tcase_add_test(c, sales_are_joined_once_through_kills);
    tcase_add_test(c, click_audit_accounts_for_every_line_through_kills);
    tcase_set_timeout(c, 60);
    suite_add_tcase(s, c);
    return suite_main(s);
}
