/*
 * case_runner FILE...: runs the cases of the files, each straight, killed and recovered after every
 * batch, with 1 and with 3 workers; those that ask for it also stopped at a batch, or killed at
 * random. Prints `id ok` or `id FAIL: …` and at last `N passed, N failed`. Exit code 1 if any
 * failed.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/cases/runner/case.h"

static char *read_file(const char *path, size_t *ret_len)
{
    FILE *f = fopen(path, "rb");
    char *text = NULL;
    long n = -1;

    if (f && fseek(f, 0, SEEK_END) == 0 && (n = ftell(f)) >= 0 && fseek(f, 0, SEEK_SET) == 0) {
        text = malloc((size_t)n + 1);
        *ret_len = text ? fread(text, 1, (size_t)n, f) : 0;
    }
    if (f) {
        (void)fclose(f);
    }
    return text;
}

static struct the_case read_case(const cJSON *j)
{
    static const char *const names[CASE_INPUTS] = {"input", "input2", "input3"};
    struct the_case c = {.json = j,
                         .parameters = field(j, "parameters"),
                         .id = text_field(j, "id"),
                         .operation = text_field(j, "operation"),
                         .num_batches = int_field(j, "num_batches", 0),
                         .batch_ms = int_field(j, "batch_ms", 1000)};

    c.id = c.id ? c.id : "(no id)";
    c.operation = c.operation ? c.operation : "(none)";
    c.slide = int_field(c.parameters, "slide", 1);
    c.slide = c.slide > 0 ? c.slide : 1;
    for (int i = 0; i < CASE_INPUTS; i++) {
        c.input[i] = field(j, names[i]);
        int n = cJSON_GetArraySize(c.input[i]);
        c.num_batches = field(j, "num_batches") || n < c.num_batches ? c.num_batches : n;
    }
    return c;
}

/* All variants of a case; the first that fails is printed. */
static bool run_all(const struct the_case *c)
{
    static const uint32_t workers[] = {1, 3};
    int restart_at = int_field(c->json, "restart_at", 0);
    struct variant v[16];
    size_t n = 0;
    char why[CASE_WHY];

    for (size_t w = 0; w < 2; w++) {
        v[n++] = (struct variant){.name = "straight", .workers = workers[w]};
        v[n++] = (struct variant){
            .name = "killed after every batch", .workers = workers[w], .kill_each = true};
        if (restart_at) {
            v[n++] =
                (struct variant){.name = "killed", .workers = workers[w], .kill_after = restart_at};
            v[n++] = (struct variant){
                .name = "stopped", .workers = workers[w], .stop_after = restart_at};
        }
        for (uint64_t seed = 1; seed <= 2 && field(c->json, "kills"); seed++) {
            v[n++] = (struct variant){
                .name = "killed at random", .workers = workers[w], .random_kills = seed};
        }
    }
    for (size_t i = 0; i < n; i++) {
        if (!run_case(c, &v[i], why)) {
            (void)printf("%s FAIL: %s (%s, workers %u)\n", c->id, why, v[i].name, v[i].workers);
            return false;
        }
    }
    (void)printf("%s ok\n", c->id);
    return true;
}

static bool run_file(const char *path, unsigned *passed, unsigned *failed)
{
    size_t len = 0;
    char *text = read_file(path, &len);
    cJSON *cases = text ? cJSON_ParseWithLength(text, len) : NULL;
    const cJSON *j;

    free(text);
    if (!cJSON_IsArray(cases)) {
        (void)fprintf(stderr, "case_runner: %s: %s\n", path,
                      text ? "not a JSON array of cases" : "cannot be read");
        cJSON_Delete(cases);
        (*failed)++;
        return false;
    }
    cJSON_ArrayForEach(j, cases)
    {
        struct the_case c = read_case(j);
        bool fine = run_all(&c);
        *passed += fine;
        *failed += !fine;
        (void)fflush(stdout);
    }
    cJSON_Delete(cases);
    return true;
}

int main(int argc, char **argv)
{
    unsigned passed = 0, failed = 0;

    if (argc < 2) {
        (void)fputs("usage: case_runner FILE...\n", stderr);
        return 2;
    }
    for (int i = 1; i < argc; i++) {
        (void)run_file(argv[i], &passed, &failed);
    }
    (void)printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
