/*
 * Totals by word, for the bare word count and for whoever checks what came out: an open-addressing
 * table with XXH3, as the bare loop of words.c has, that owns its words and lists what changed.
 */
#ifndef LEVEE_BENCH_KAFKA_TALLY_H
#define LEVEE_BENCH_KAFKA_TALLY_H

#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "bench/bench.h"

#define TALLY_SLOTS ((size_t)1 << 18) /* at most half are used */
#define TALLY_WORDS (TALLY_SLOTS / 2)

struct tally_entry {
    uint64_t hash, count;
    char *word;
    uint32_t len;
    bool changed;
};

struct tally {
    struct tally_entry *entries;
    uint32_t *changed; /* slots, in order of their first change */
    size_t words, changed_count;
    uint64_t sum;
};

static inline void tally_init(struct tally *t)
{
    *t = (struct tally){.entries = bench_alloc(TALLY_SLOTS * sizeof *t->entries),
                        .changed = bench_alloc(TALLY_WORDS * sizeof *t->changed)};
}

static inline void tally_release(struct tally *t)
{
    for (size_t i = 0; i < TALLY_SLOTS; i++) {
        free(t->entries[i].word);
    }
    free(t->entries);
    free(t->changed);
}

static inline struct tally_entry *tally_at(struct tally *t, const void *word, size_t len)
{
    uint64_t h = hash_key(word, len);
    size_t at = h & (TALLY_SLOTS - 1);
    struct tally_entry *e;

    while ((e = &t->entries[at])->hash &&
           !(e->hash == h && e->len == len && memcmp(e->word, word, len) == 0)) {
        at = (at + 1) & (TALLY_SLOTS - 1);
    }
    if (!e->hash) {
        bench_must(++t->words <= TALLY_WORDS, "more words than the table is for");
        *e = (struct tally_entry){h, 0, bench_alloc(len + 1), (uint32_t)len, false};
        memcpy(e->word, word, len);
    }
    return e;
}

/* One more of this word. */
static inline void tally_count(struct tally *t, const void *word, size_t len)
{
    struct tally_entry *e = tally_at(t, word, len);

    e->count++;
    if (!e->changed) {
        e->changed = true;
        t->changed[t->changed_count++] = (uint32_t)(e - t->entries);
    }
}

/* The sum that words_count_bare gives for the same counts. */
static inline uint64_t tally_checksum(const struct tally *t)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < TALLY_SLOTS; i++) {
        if (t->entries[i].hash) {
            sum += t->entries[i].hash * (t->entries[i].count + 1);
        }
    }
    return sum;
}

/* A total in decimal, as both sides write it. */
static inline uint64_t tally_number(const void *text, size_t len)
{
    const uint8_t *p = text;
    uint64_t n = 0;

    for (size_t i = 0; i < len; i++) {
        bench_must(p[i] >= '0' && p[i] <= '9', "a total is no number");
        n = n * 10 + (uint64_t)(p[i] - '0');
    }
    return n;
}

#endif
