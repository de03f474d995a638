#include "tests/fault/crash_job.h"

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
