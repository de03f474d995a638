/* The rungs of bench_kafka, a file each. What is measured and how stands at the top of the file. */
#ifndef LEVEE_BENCH_KAFKA_RUNGS_H
#define LEVEE_BENCH_KAFKA_RUNGS_H

void kafka_ingest(void);       /* 4a, 4b */
void kafka_produce(void);      /* 7a, 7b */
void kafka_transactions(void); /* 7t */
void kafka_latency(void);      /* 8 */
void kafka_words(void);        /* 13a-e */
void kafka_restart(void);      /* kill -9 to new output */
void kafka_pressure(void);     /* a source faster than its sink */

/* The bare side of 13, in a process of its own: bench_kafka bare-words … */
int kafka_bare_words(int argc, char **argv);
/* … of the restarts: bench_kafka bare-restart … */
int kafka_bare_restart(int argc, char **argv);
/* One run of rung 14: bench_kafka pressure … */
int kafka_pressure_run(int argc, char **argv);

#endif
