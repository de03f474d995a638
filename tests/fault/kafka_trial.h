/*
 * Trials whose output goes to a topic of a real broker, and the stranger who judges it.
 *
 * The stranger reads the topic with read_committed from its beginning and knows nothing of levee
 * but, in a topic of one partition, the header that ends a batch: the records up to each header
 * must be exactly the totals that the batch's input changes, batch after batch, each once. In a
 * topic of several partitions the running count of all records (key "all") tells the batches, and
 * each key's totals must be those of the fold at these counts, each once and in order; a key may
 * have moved to another partition once, as it does when the topic grows.
 *
 * Beside it, as in crash_trial.h: what a sender was told to be durable is durable in every later
 * life.
 */
#ifndef LEVEE_TESTS_KAFKA_TRIAL_H
#define LEVEE_TESTS_KAFKA_TRIAL_H

#include "tests/fault/crash_trial.h"
#include "tests/fault/numbered.h"
#include "tests/support/broker.h"

#include <signal.h>

/* KAFKA_VERSION, or 4.1. */
const char *ktrial_version(void);

/* A topic of its own, made on the broker, which must outlive the trial. */
void ktrial_open(struct trial *t, struct broker *b, uint64_t seed, int partitions);
/* The same with one partition in so many copies. */
void ktrial_open_replicated(struct trial *t, struct broker *b, uint64_t seed, int replicas,
                            const char *const *properties);
void ktrial_must_be_fine(struct trial *t, const char *when);
/* The same, where the topic lies on another broker; later judgements ask that one, too. */
void ktrial_judge_on(struct trial *t, struct broker *b);
/* A last life that drains; then everything sent is counted, once. Removes the trial's files. */
void ktrial_must_finish(struct trial *t);
/* The same trial with another state directory below its root; the topic stays. */
struct trial ktrial_with_directory(const struct trial *t, const char *name);
void ktrial_copy_directory(const struct trial *t, const char *to);
/* The same judgement of another topic, to which a sink was added after `base` records. */
struct trial ktrial_with_topic(const struct trial *t, const char *topic, uint64_t base);

/* What the children have printed so far contains it. */
bool ktrial_said(const struct trial *t, const char *what);
/* One life of so many records more; it must end by itself with an error of these words. */
void ktrial_must_refuse(struct trial *t, const char *code, const char *word);

/* Until this many records are in batches that every sink has committed, in the newest life. */
void ktrial_wait_for_records(const struct trial *t, uint64_t records);
/* So many more than there are now. */
void ktrial_wait_for_more(const struct trial *t, uint64_t records);
/* Records acknowledged to the sender, over all lives. */
uint64_t ktrial_acked(const struct trial *t);
/* It must still live: killed, and its output judged. */
void ktrial_kill(struct trial *t, pid_t pid, const char *when);

/* As an operator, or retention, does it. */
void ktrial_delete_group(const struct trial *t);

#endif
