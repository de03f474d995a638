/*
 * A stranger's view of an output topic of totals: what is committed, since when, and that no total
 * of a word comes twice or goes back.
 */
#ifndef LEVEE_BENCH_KAFKA_VIEW_H
#define LEVEE_BENCH_KAFKA_VIEW_H

#include "bench/kafka_rig.h"
#include "bench/kafka_tally.h"

#define VIEW_COMMITS 256

struct view {
    rd_kafka_t *rk;
    struct tally tally; /* sum: of all totals */
    struct view_commit {
        double at;
        uint64_t words;
    } commits[VIEW_COMMITS]; /* as far as a silence came after them */
    size_t commit_count;
    double newest;   /* when the last record was read */
    int64_t sent_ms; /* when the sender sent it */
};

struct view *view_open(const char *topic, int partitions);
void view_close(struct view *v);
void view_read(struct view *v); /* one record, if one comes within 20 ms */
/* Reads until `words` are in the totals, or until a total was sent at or after since_ms. */
void view_watch(struct view *v, uint64_t words, int64_t since_ms);
int64_t view_now_ms(void); /* the clock of sent_ms */
/* SIGKILL, and reaped. */
void view_kill(pid_t child);

#endif
