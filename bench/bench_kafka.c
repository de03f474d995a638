/*
 * The ladder's rungs on a real Apache Kafka, on the same processors.
 *
 *   4a, 4b      the source into the log / the best bare consumer            kafka_ingest.c
 *   7a, 7b, 7t  the transactional sink / a plain producer; transactions     kafka_produce.c,
 * kafka_transactions.c 8a, 8b      latency of an exactly-once word / a bare loop kafka_latency.c
 *   13a-e       a word count, topic to topic / a bare loop                  kafka_words.c
 *   11k         kill -9 to the first new committed output                   kafka_restart.c
 *   14          a source faster than its sink                               kafka_pressure.c
 *
 * By default a few minutes, with fewer pairs than a rung needs to count; --full, or BENCH_FULL=1,
 * takes as many as it needs. Without a broker nothing is measured, and it says so.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "bench/kafka_rig.h"
#include "bench/kafka_rungs.h"

#define FULL_PATIENCE 12

static const char *own_path(void)
{
    static char path[512];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);

    bench_must(n > 0, "/proc/self/exe");
    path[n] = 0;
    return path;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } parts[] = {{"bare-words", kafka_bare_words},
                 {"bare-restart", kafka_bare_restart},
                 {"pressure", kafka_pressure_run}};
    for (size_t i = 0; argc > 1 && i < ARRAY_LEN(parts); i++) {
        if (strcmp(argv[1], parts[i].name) == 0) {
            return parts[i].run(argc, argv);
        }
    }
    bool full = getenv("BENCH_FULL") || (argc > 1 && strcmp(argv[1], "--full") == 0);
    rig_patience = full ? FULL_PATIENCE : 1;
    rig_program = own_path();
    bench_init("bench_kafka");
    bench_must(chdir(bench_scratch()) == 0, "scratch directory");
    if (!rig_start()) {
        return 0;
    }
    bench_must(atexit(rig_stop) == 0, "atexit");
    double from = bench_now(), broker = rig_broker_cpu();
    kafka_ingest();
    kafka_produce();
    kafka_transactions();
    kafka_latency();
    kafka_words();
    kafka_restart();
    kafka_pressure();
    (void)printf("      %.0f s in all; the broker used %.0f s of processor time\n",
                 bench_now() - from, rig_broker_cpu() - broker);
    return 0;
}
