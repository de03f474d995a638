#include "tests/fault/crash_job.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 31)) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9u;
    return x ^ (x >> 32);
}

struct job_record job_record(uint64_t seed, uint64_t number)
{
    uint64_t x = mix(seed * 1000003 + number);

    return (struct job_record){.key = (unsigned)(x % JOB_KEYS),
                               .value = (int64_t)((x >> 8) % 1000) - 200,
                               .padding = (unsigned)((x >> 24) % 500)};
}

/* ---- levee's side ---- */

size_t job_text(uint64_t seed, uint64_t number, char out[JOB_TEXT_MAX])
{
    struct job_record r = job_record(seed, number);
    int n = snprintf(out, 40, "%u %lld ", r.key, (long long)r.value);

    memset(out + n, 'x', r.padding);
    return (size_t)n + r.padding;
}

int job_to_pairs(levee_output *out, const struct levee_record *line, void *arg)
{
    char text[40];
    uint8_t value_le[8];
    long long value = 0;
    unsigned key = 0;
    size_t n = line->value.len < sizeof text - 1 ? line->value.len : sizeof text - 1;

    (void)arg;
    memcpy(text, line->value.data, n);
    text[n] = '\0';
    if (sscanf(text, "%u %lld", &key, &value) != 2) {
        return -1;
    }
    for (int i = 0; i < 8; i++) {
        value_le[i] = (uint8_t)((uint64_t)value >> (8 * i));
    }
    n = (size_t)snprintf(text, sizeof text, "key-%02u", key);
    int code = levee_emit_copy(out, (struct levee_slice){(uint8_t *)text, n},
                               (struct levee_slice){value_le, sizeof value_le});
    return code ? code : levee_emit_i64(out, levee_text(JOB_ALL), 1);
}

/* ---- the oracle ---- */

static bool broken(char why[JOB_WHY], const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool broken(char why[JOB_WHY], const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(why, JOB_WHY, fmt, ap);
    va_end(ap);
    return false;
}

struct batch_file {
    int64_t totals[JOB_KEYS];
    bool present[JOB_KEYS];
    uint64_t all;
};

/* "key-07<TAB>123" or "all<TAB>45", each at most once. */
static bool parse_line(struct batch_file *b, const char *line, size_t len)
{
    char text[64], *end;
    const char *tab = memchr(line, '\t', len);

    if (!tab || len >= sizeof text) {
        return false;
    }
    memcpy(text, line, len);
    text[len] = '\0';
    text[tab - line] = '\0';
    long long total = strtoll(text + (tab - line) + 1, &end, 10);
    if (*end || end == text + (tab - line) + 1) {
        return false;
    }
    if (strcmp(text, JOB_ALL) == 0 && b->all == 0 && total > 0) {
        b->all = (uint64_t)total;
        return true;
    }
    unsigned long key = strncmp(text, "key-", 4) == 0 ? strtoul(text + 4, &end, 10) : JOB_KEYS;
    if (key >= JOB_KEYS || *end || b->present[key]) {
        return false;
    }
    b->totals[key] = total;
    b->present[key] = true;
    return true;
}

static bool parse_file(struct batch_file *b, const char *text, size_t len)
{
    *b = (struct batch_file){.all = 0};
    while (len) {
        const char *end = memchr(text, '\n', len);
        if (!end || !parse_line(b, text, (size_t)(end - text))) {
            return false;
        }
        len -= (size_t)(end + 1 - text);
        text = end + 1;
    }
    return b->all > 0;
}

bool job_judge(struct job_fold *f, uint64_t batch, const char *text, size_t len, uint64_t sent,
               char why[JOB_WHY])
{
    struct batch_file b;
    bool touched[JOB_KEYS] = {false};

    if (batch <= f->last_batch) {
        return broken(why, "batch %" PRIu64 " comes after batch %" PRIu64, batch, f->last_batch);
    }
    if (!parse_file(&b, text, len)) {
        return broken(why, "batch %" PRIu64 ": not a batch file of ours", batch);
    }
    if (b.all <= f->records || b.all > sent) {
        return broken(why,
                      "batch %" PRIu64 ": %" PRIu64 " records counted, %" PRIu64
                      " before it, %" PRIu64 " sent",
                      batch, b.all, f->records, sent);
    }
    for (uint64_t i = f->records + 1; i <= b.all; i++) {
        struct job_record r = job_record(f->seed, i);
        f->totals[r.key] += r.value;
        touched[r.key] = true;
    }
    for (unsigned k = 0; k < JOB_KEYS; k++) {
        if (touched[k] != b.present[k] || (touched[k] && f->totals[k] != b.totals[k])) {
            return broken(why,
                          "batch %" PRIu64 ", records %" PRIu64 " to %" PRIu64
                          ": key %u has %lld%s, should have %lld%s",
                          batch, f->records + 1, b.all, k, (long long)b.totals[k],
                          b.present[k] ? "" : " (absent)", (long long)f->totals[k],
                          touched[k] ? "" : " (untouched)");
        }
    }
    f->records = b.all;
    f->last_batch = batch;
    return true;
}
