/**
 * What this machine computes on: an NVIDIA GPU where its driver is installed and a device is visible, else the CPU.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { EnvironmentIncomplete } from '../../shared/errors.ts';

export type Device = 'cpu' | 'gpu';

/** Oldest driver that runs CUDA 12 (NVIDIA's CUDA compatibility table, minor version compatibility). */
const MINIMUM_DRIVER = 525;

/** Folders where drivers and container runtimes put libcuda.so.1; WSL has its own. */
const DRIVER_FOLDERS = [
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib64',
  '/usr/lib',
  '/usr/lib/wsl/lib',
  '/usr/local/nvidia/lib64',
  '/usr/local/nvidia/lib',
];

export interface GpuFinding {
  usable: boolean;
  /** One sentence for people: what was found, or what is missing. */
  note: string;
}

/** Looks for a GPU without starting a program. @param root - of the file system; another one in tests */
export function findGpu(env: NodeJS.ProcessEnv = process.env, root = '/'): GpuFinding {
  const hasDevice = hasNvidiaDevice(root);
  const driver = driverVersion(root);
  if (!hasDevice && driver === null) return { usable: false, note: 'no NVIDIA GPU' };
  if (!hasDevice)
    return { usable: false, note: 'NVIDIA driver found, but no device in /dev (a container without --gpus?)' };
  if (!findDriverLibrary(env, root)) {
    return { usable: false, note: 'NVIDIA device found, but not the driver library libcuda.so.1: install the driver' };
  }
  if (driver !== null && driver < MINIMUM_DRIVER) {
    return {
      usable: false,
      note: `NVIDIA driver ${driver} is too old for CUDA 12: install ${MINIMUM_DRIVER} or newer`,
    };
  }
  return { usable: true, note: driver === null ? 'NVIDIA GPU' : `NVIDIA GPU, driver ${driver}` };
}

/** The device to set up for: ORPO_ENGINE=cpu|gpu where given, else what the machine has.
 *  @throws EnvironmentIncomplete for another value */
export function chooseDevice(env: NodeJS.ProcessEnv = process.env, gpu: GpuFinding = findGpu(env)): Device {
  const asked = env['ORPO_ENGINE'];
  if (asked === 'cpu' || asked === 'gpu') return asked;
  if (asked) throw new EnvironmentIncomplete(`ORPO_ENGINE is "${asked}"; it must be cpu or gpu, or not be set`);
  return gpu.usable ? 'gpu' : 'cpu';
}

function hasNvidiaDevice(root: string): boolean {
  if (existsSync(join(root, 'dev/dxg'))) return true; // WSL 2
  try {
    return readdirSync(join(root, 'dev')).some((name) => /^nvidia\d+$/.test(name));
  } catch {
    return false;
  }
}

/** Major version of the loaded kernel driver, null where there is none (or under WSL, whose driver is the host's). */
function driverVersion(root: string): number | null {
  try {
    const text = readFileSync(join(root, 'proc/driver/nvidia/version'), 'utf8');
    const version = /(?:Kernel Module|x86_64)\D*?(\d{3,})\.\d+/.exec(text);
    return version ? Number(version[1]) : null;
  } catch {
    return null;
  }
}

function findDriverLibrary(env: NodeJS.ProcessEnv, root: string): boolean {
  const own = (env['LD_LIBRARY_PATH'] ?? '').split(':').filter((folder) => folder !== '');
  return [...own, ...DRIVER_FOLDERS].some((folder) => existsSync(join(root, folder, 'libcuda.so.1')));
}
