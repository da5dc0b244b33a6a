// Faults for child processes: a disk that is full, system calls that fail, and death at any system call.
#pragma once
#include "scratch.hpp"
#include <csignal>
#include <cstddef>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/// No file of this process grows beyond `bytes`; writes fail as they do on a full disk.
inline void limit_file_size(rlim_t bytes) {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit const limit{bytes, bytes};
  if (::setrlimit(RLIMIT_FSIZE, &limit) != 0)
    throw std::runtime_error("setrlimit");
}

/// From now on a system call of this process fails with `code`, if its argument `position` is `value`
/// (-1: always). False when this machine does not let us.
inline bool refuse_call(long call, int code, int position = -1, unsigned value = 0) {
  auto const always = position < 0;
  auto const argument = offsetof(seccomp_data, args) + 8 * static_cast<unsigned>(always ? 0 : position);
  auto const number = static_cast<unsigned>(call);
  auto const looked_at = static_cast<unsigned>(always ? offsetof(seccomp_data, nr) : argument);
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, looked_at),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, always ? number : value, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(code)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog const program{static_cast<unsigned short>(std::size(filter)), filter};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/// A file system of `bytes` over `folder`, seen by this process only. False when that is not allowed.
inline bool mount_small(std::string const& folder, std::string const& bytes) {
  return ::unshare(CLONE_NEWNS) == 0 && ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         ::mount("tmpfs", folder.c_str(), "tmpfs", 0, ("size=" + bytes).c_str()) == 0;
}

enum class fate { killed, finished, failed, untraceable };

/// Does `work` in a child that is killed when it has entered or left `stops` system calls.
template <class Work>
fate kill_after(int stops, Work work) {
  auto const child = ::fork();
  if (child == 0) {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0)
      ::_exit(2);
    ::raise(SIGSTOP);
    try {
      work();
    } catch (...) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  for (int stop = 0;; ++stop) {
    ::waitpid(child, &status, 0);
    if (!WIFSTOPPED(status))
      break;
    if (stop > stops) {
      ::kill(child, SIGKILL);
      ::waitpid(child, &status, 0);
      return fate::killed;
    }
    ::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
  }
  if (!WIFEXITED(status))
    return fate::failed;
  return WEXITSTATUS(status) == 0   ? fate::finished
         : WEXITSTATUS(status) == 2 ? fate::untraceable
                                    : fate::failed;
}
